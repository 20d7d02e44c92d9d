"""Exports are taken from a run that real stages wrote, and loaded as another program would."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.commands.export import main
from rlff_lightning.engines.base import Sampling
from rlff_lightning.engines.transformers import TransformersEngine
from rlff_lightning.engines.vllm import VLLMEngine
from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone, LoraSettings
from rlff_lightning.models.reward_head import RewardModel
from rlff_lightning.modules.policy import PolicyModule
from rlff_lightning.rollout.contexts import LiveConversations
from rlff_lightning.rollout.scorers import Sampled, Scorer
from rlff_lightning.rollout.settings import RolloutSettings

PROMPTS = [[5, 7, 11, 13, 17, 19], [23, 29, 31]]
COMPLETIONS = [[37, 41, 43, 47], [53, 59]]
SUMMARY = {
    "policies": {
        "sft": {"success_rate": 0.02, "ci95": [0.008, 0.05], "average_turns": 7.9, "episodes": 200},
        "rlff": {
            "success_rate": 0.5,
            "ci95": [0.43, 0.57],
            "average_turns": 6.0,
            "episodes": 200,
            "average_turns_low": 5.7,
            "average_turns_high": 6.3,
        },
    },
    "judge": {"name": "scripted world, solved state"},
}


class LetterScorer(Scorer):
    """Replies differ in how many letters they use: enough of a reward to move a policy."""

    name = "letters"

    def score(self, samples: Sequence[Sampled]) -> torch.Tensor:
        return torch.tensor([float(len(set(sample.text))) for sample in samples])


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    pocket_folder: Path,
    quiet_trainer: Callable[..., Any],
) -> Path:
    """A run whose LoRA policy was trained for two real steps; its base is named from the run."""
    run = tmp_path_factory.mktemp("run")
    (run / "warm_start").mkdir()
    (run / "warm_start" / "model").symlink_to(pocket_folder)
    here = Path.cwd()
    os.chdir(run)
    try:
        backbone = Backbone("warm_start/model", adapter=LoraSettings(rank=4))
        module = PolicyModule(
            policy=backbone,
            engine=TransformersEngine("warm_start/model", max_model_len=512),
            contexts=LiveConversations(ScriptedSeeker(), ScriptedCritic(), max_turns=3),
            scorers=[LetterScorer()],
            rollout=RolloutSettings(prompts=2, group_size=4, max_tokens=12, temperature=0.9),
            learning_rate=0.05,
        )
        writer = ModelCheckpoint("policy/checkpoints", every_n_train_steps=1, save_last=True)
        trainer = quiet_trainer(
            Path("policy"), max_steps=2, callbacks=[writer], enable_checkpointing=True
        )
        trainer.fit(module)
    finally:
        os.chdir(here)
    config = {
        "model": {
            "class_path": "rlff_lightning.modules.policy.PolicyModule",
            "init_args": {
                "policy": {"model_name_or_path": "warm_start/model", "adapter": {"rank": 4}},
                "rollout": {"temperature": 0.9, "max_tokens": 12},
                "learning_rate": 0.05,
            },
        },
    }
    (run / "policy" / "config.yaml").write_text(yaml.safe_dump(config))
    evaluation = {
        "model": {"init_args": {"policies": {"rlff": {"adapter": "policy/adapter"}}}},
        "data": {"init_args": {"paths": ["/somewhere/ESConv.json"]}},
    }
    (run / "evaluate").mkdir()
    (run / "evaluate" / "config.yaml").write_text(yaml.safe_dump(evaluation))
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    return run


def logps_of(model: torch.nn.Module) -> list[float]:
    """Log-probabilities of all completion tokens by one plain pass each."""
    found: list[float] = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        with torch.no_grad():
            logits = model.eval()(torch.tensor([prompt + completion])).logits[0]
        logps = logits[len(prompt) - 1 : -1].log_softmax(-1)
        found += [row[token].item() for row, token in zip(logps, completion, strict=True)]
    return found


@pytest.fixture(scope="module")
def trained(run: Path) -> list[float]:
    """What the trained policy itself says: base and adapter, neither exported nor merged."""
    here = Path.cwd()
    os.chdir(run)
    try:
        return logps_of(Backbone("policy/adapter").build())
    finally:
        os.chdir(here)


def flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


def test_training_moved_the_policy(run: Path, trained: list[float]) -> None:
    base = logps_of(Backbone(str(run / "warm_start" / "model")).build())
    assert max(abs(a - b) for a, b in zip(base, trained, strict=True)) > 0.05


def test_a_merged_policy_has_the_trained_log_probabilities_in_transformers_and_vllm(
    run: Path, trained: list[float], tmp_path: Path
) -> None:
    output = tmp_path / "merged"
    assert main([str(run), "--output", str(output), "--merged"]) == 0
    assert logps_of(AutoModelForCausalLM.from_pretrained(output)) == pytest.approx(
        trained, abs=2e-5
    )
    engine = VLLMEngine(str(output), max_model_len=64, kv_cache_gib=0.03)
    found = flat(engine.logps(PROMPTS, COMPLETIONS))
    assert found == pytest.approx(trained, abs=2e-5)
    [reply] = engine.generate(PROMPTS[:1], Sampling(temperature=0, max_tokens=3), [0])
    assert len(reply.token_ids) <= 3
    engine.close()


def test_an_exported_adapter_has_them_too_wherever_it_is_loaded_from(
    run: Path, trained: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "adapter"
    main([str(run), "--output", str(output)])
    monkeypatch.chdir(tmp_path)
    assert logps_of(Backbone(str(output)).build()) == pytest.approx(trained, abs=1e-6)
    engine = VLLMEngine(str(output), max_model_len=64, kv_cache_gib=0.03, enable_lora=True)
    assert flat(engine.logps(PROMPTS, COMPLETIONS)) == pytest.approx(trained, abs=2e-5)
    engine.close()


def test_an_adapter_on_four_bits_is_merged_into_what_the_four_bits_stand_for(
    run: Path, trained: list[float], tmp_path: Path
) -> None:
    config = yaml.safe_load((run / "policy" / "config.yaml").read_text())
    config["model"]["init_args"]["policy"]["quantize"] = "nf4"
    stage = tmp_path / "run" / "policy"
    stage.mkdir(parents=True)
    (stage / "config.yaml").write_text(yaml.safe_dump(config))
    (stage / "adapter").symlink_to(run / "policy" / "adapter")
    (stage.parent / "warm_start").symlink_to(run / "warm_start")
    main([str(stage.parent), "--output", str(tmp_path / "out"), "--merged"])
    adapter = tmp_path / "adapter"
    main([str(run), "--output", str(adapter)])
    expected = logps_of(Backbone(str(adapter), quantize="nf4").build())
    found = logps_of(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    assert found == pytest.approx(expected, abs=5e-5)
    # Four bits are another model: the test would see it if they were left out.
    assert max(abs(a - b) for a, b in zip(found, trained, strict=True)) > 1e-2
    # An exported adapter has no config.yaml above it, and is merged alike.
    alone = tmp_path / "elsewhere" / "alone"
    main([str(stage.parent), "--output", str(alone)])
    main([str(alone), "--output", str(tmp_path / "later"), "--merged"])
    later = AutoModelForCausalLM.from_pretrained(tmp_path / "later")
    assert logps_of(later) == pytest.approx(found, abs=1e-6)


def test_an_adapter_of_unknown_training_is_not_merged_until_told(
    run: Path, trained: list[float], tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    main([str(run), "--output", str(alone)])
    record = alone / "training_precision.json"
    for text, told in [
        (None, 'write training_precision.json beside it, e.g. {"quantize": "nf4"'),
        ('{"quantize": "int8", "dtype": "float32"}', "quantize must be null or nf4"),
    ]:
        record.unlink(missing_ok=True)
        if text:
            record.write_text(text)
        with pytest.raises(UserError) as caught:
            main([str(alone), "--output", str(tmp_path / "out"), "--merged"])
        assert told in str(caught.value)
    record.write_text('{"quantize": null, "dtype": "float32"}')
    main([str(alone), "--output", str(tmp_path / "out"), "--merged"])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert logps_of(merged) == pytest.approx(trained, abs=2e-5)


@pytest.mark.parametrize("is_merged", [False, True])
def test_the_last_checkpoint_exports_as_the_finished_run(
    run: Path, trained: list[float], tmp_path: Path, is_merged: bool
) -> None:
    file = run / "policy" / "checkpoints" / "last.ckpt"
    words = ["--merged"] if is_merged else []
    main([str(file), "--output", str(tmp_path / "out"), *words])
    model = Backbone(str(tmp_path / "out")).build()
    assert hasattr(model, "peft_config") is not is_merged
    assert logps_of(model) == pytest.approx(trained, abs=2e-5)


def test_a_bfloat16_export_is_the_merged_float32_weights_rounded_once(
    run: Path, tmp_path: Path
) -> None:
    for dtype in ("float32", "bfloat16"):
        main([str(run), "--output", str(tmp_path / dtype), "--merged", "--dtype", dtype])
    exact, rounded = (
        load_file(tmp_path / dtype / "model.safetensors") for dtype in ("float32", "bfloat16")
    )
    assert exact.keys() == rounded.keys()
    assert all(torch.equal(exact[name].bfloat16(), rounded[name]) for name in exact)


def test_an_export_talks_as_the_policy_was_trained_to(run: Path, tmp_path: Path) -> None:
    main([str(run), "--output", str(tmp_path / "out"), "--merged"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    trained = Backbone(str(run / "warm_start" / "model")).tokenizer()
    chat = [{"role": "user", "content": "I feel low."}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == trained.apply_chat_template(
        chat, tokenize=False
    )
    generation = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (generation.temperature, generation.top_k, generation.top_p) == (0.9, 0, 1.0)
    assert generation.max_new_tokens == 12
    assert generation.eos_token_id == trained.eos_token_id


def test_a_policy_without_rollout_settings_is_exported_with_their_defaults(
    run: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(run / "warm_start" / "model", base)
    # As instruct models have them, but no rollout ever sampled with.
    GenerationConfig(do_sample=True, top_p=0.8, top_k=20, temperature=0.7).save_pretrained(base)
    adapter = tmp_path / "run" / "policy" / "adapter"
    shutil.copytree(run / "policy" / "adapter", adapter)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(base)
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    config = yaml.safe_load((run / "policy" / "config.yaml").read_text())
    config["model"]["init_args"]["rollout"] = None
    (adapter.parent / "config.yaml").write_text(yaml.safe_dump(config))
    main([str(tmp_path / "run"), "--output", str(tmp_path / "out")])
    found = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (found.temperature, found.top_k, found.top_p) == (1.0, 0, 1.0)
    assert found.max_new_tokens == 256


def test_the_card_tells_base_method_data_and_success_with_its_judge(
    run: Path, tmp_path: Path
) -> None:
    main([str(run), "--output", str(tmp_path / "out")])
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["rlff-lightning", "dialogue", "emotional-support"],
    }
    assert "GRPO, arXiv:2402.03300" in card
    assert "`evaluate`: ESConv.json" in card
    assert "Judge: scripted world, solved state." in card
    assert "| **rlff** (this model) | 0.500 | 0.430 to 0.570 | 6.00 (5.70 to 6.30) | 200 |" in card
    assert "| sft | 0.020 |" in card
    assert "no therapist" in card
    assert str(run) not in card


def test_the_card_of_stages_that_were_run_one_by_one_tells_the_same(
    run: Path, tmp_path: Path
) -> None:
    main([str(run), "--output", str(tmp_path / "out")])
    by_stage = tmp_path / "by_stage"
    for name in ("policy", "evaluate"):
        shutil.copytree(run / name, by_stage / name)
    (by_stage / "warm_start").symlink_to(run / "warm_start")
    # What the evaluation writes itself; another stage's summary has no policies.
    (by_stage / "evaluate" / "summary.json").write_text(json.dumps(SUMMARY))
    (by_stage / "policy" / "summary.json").write_text("{}")
    main([str(by_stage), "--output", str(tmp_path / "later")])
    expected, found = ((tmp_path / o / "README.md").read_text() for o in ("out", "later"))
    assert "| **rlff** (this model) | 0.500 |" in found
    assert found == expected
    # Of another training that only lies beside it nothing is told.
    (by_stage / "evaluate" / "config.yaml").write_text(
        "data: {init_args: {paths: [ESConv.json]}}\nmodel: {init_args: {policies: {a: b/c}}}\n"
    )
    main([str(by_stage), "--output", str(tmp_path / "alone")])
    card = (tmp_path / "alone" / "README.md").read_text()
    assert "ESConv.json" not in card
    assert "success rate |" not in card


@pytest.mark.parametrize("is_merged", [False, True])
def test_an_exported_reward_model_scores_as_before(
    pocket_folder: Path, tmp_path: Path, is_merged: bool
) -> None:
    from rlff_lightning.dialogue.reward_format import RewardInput, write_reward_input
    from rlff_lightning.models.head_settings import HeadSettings

    torch.manual_seed(0)
    trunk = Backbone(str(pocket_folder), adapter=LoraSettings(rank=2)).build_trunk()
    for name, weight in trunk.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model = RewardModel(trunk, HeadSettings())
    model.fit_labels(torch.tensor([0.0, 1.0, 0.5]))
    model.mark_trained()
    folder = tmp_path / "reward_model" / "model"
    model.save_pretrained(folder, Backbone(str(pocket_folder)).tokenizer())
    write_reward_input(RewardInput(max_tokens=77), folder)
    words = ["--merged"] if is_merged else []
    main([str(folder), "--output", str(tmp_path / "out"), *words])
    with pytest.raises(UserError, match="--dtype bfloat16 casts merged weights"):
        main([str(folder), "--output", str(tmp_path / "cast"), "--dtype", "bfloat16"])
    loaded = RewardModel.load(tmp_path / "out")
    assert hasattr(loaded.trunk, "peft_config") is not is_merged
    ids, mask = torch.tensor([[3, 5, 7, 11]]), torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad():
        expected, found = (m.values(m.eval()(ids, mask)) for m in (model, loaded))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    assert json.loads((tmp_path / "out" / "reward_input.json").read_text())["max_tokens"] == 77


def test_a_failed_export_leaves_nothing(run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "run" / "policy" / "adapter"
    broken.mkdir(parents=True)
    settings = json.loads((run / "policy" / "adapter" / "adapter_config.json").read_text())
    (broken / "adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": str(tmp_path / "gone")})
    )
    with pytest.raises(UserError, match="no such model folder"):
        main([str(tmp_path / "run"), "--output", str(tmp_path / "out")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_mistakes_are_told_in_one_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "sharded").mkdir()
    (tmp_path / "sharded" / ".metadata").touch()
    (tmp_path / "alone.ckpt").write_bytes(b"nothing")
    for name, mark in (("adapter", "adapter_config.json"), ("model", "config.json")):
        (tmp_path / "twice" / "policy" / name).mkdir(parents=True)
        (tmp_path / "twice" / "policy" / name / mark).touch()
    out = str(tmp_path / "out")
    for words, told in [
        ([str(tmp_path / "none"), "--output", out], "no such run"),
        ([str(tmp_path), "--output", out], "it holds no weights"),
        ([str(run), "--stage", "futures", "--output", out], "name one with --stage: policy"),
        ([str(run), "--output", str(tmp_path / "full")], "exists already"),
        ([str(tmp_path / "sharded"), "--output", out], "config.yaml of its stage"),
        ([str(tmp_path / "alone.ckpt"), "--output", out], "config.yaml of its stage"),
        ([str(run), "--output", out, "--dtype", "int8"], "--dtype"),
        ([str(run), "--output", out, "--dtype", "bfloat16"], "--dtype bfloat16 casts merged"),
        ([str(tmp_path / "twice"), "--output", out], "holds both an adapter and a model"),
    ]:
        with pytest.raises(UserError) as caught:
            main(words)
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not Path(out).exists()


def test_a_checkpoint_of_another_model_is_refused(run: Path, tmp_path: Path) -> None:
    stage = tmp_path / "run" / "policy"
    (stage / "checkpoints").mkdir(parents=True)
    config = (run / "policy" / "config.yaml").read_text()
    (stage / "config.yaml").write_text(config.replace("rank: 4", "rank: 8"))
    (stage.parent / "warm_start").symlink_to(run / "warm_start")
    file = stage / "checkpoints" / "last.ckpt"
    file.symlink_to(run / "policy" / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match=r"another shape for .*lora_A"):
        main([str(file), "--output", str(tmp_path / "out")])
