import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rlff_lightning.errors import UserError
from rlff_lightning.models.group_logps import group_logps

SIZES = {
    "vocab_size": 31,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}


def tiny(kind: str = "qwen2") -> nn.Module:
    torch.manual_seed(0)
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)).eval()
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)).eval()


def rows(lists: list[list[int]], side: str) -> tuple[Tensor, Tensor]:
    width = max(map(len, lists))
    ids, mask = torch.zeros(len(lists), width, dtype=torch.long), []
    for row, tokens in zip(ids, lists, strict=True):
        where = slice(width - len(tokens), None) if side == "left" else slice(len(tokens))
        row[where] = torch.tensor(tokens, dtype=torch.long)
        keep = torch.zeros(width, dtype=torch.bool)
        keep[where] = True
        mask.append(keep)
    return ids, torch.stack(mask)


PROMPTS = [[5, 9, 2, 7, 7], [3], [8, 1, 30]]
COMPLETIONS = [[4, 6, 11], [12], [13, 14], [15, 16, 17, 18], [1], [2, 3, 0]]


def one_by_one(model: nn.Module, temperature: float) -> list[tuple[Tensor, Tensor]]:
    """Log-probabilities and entropies from a plain pass over each sequence alone."""
    found = []
    for i, completion in enumerate(COMPLETIONS):
        prompt = PROMPTS[i // 2]
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        logp = (logits.double() / temperature).log_softmax(-1)
        chosen = logp.gather(1, torch.tensor(completion)[:, None])[:, 0]
        found.append((chosen, -(logp.exp() * logp).sum(-1)))
    return found


@pytest.fixture(params=["one pass", "a pass per group"])
def passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "a pass per group":
        monkeypatch.setattr("rlff_lightning.models.group_logps.CPU_PASS_TOKENS", 8)
    return request.param


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("sharing", ["padded", "shared"])
def test_a_batch_scores_what_each_sequence_scores_alone(
    passes: str, kind: str, temperature: float, sharing: str
):
    model = tiny(kind)
    stats = group_logps(
        model,
        *rows(PROMPTS, "left"),
        *rows(COMPLETIONS, "right"),
        temperature=temperature,
        sharing=sharing,
        with_entropy=True,
    )
    for i, (logps, entropy) in enumerate(one_by_one(model, temperature)):
        n = len(logps)
        torch.testing.assert_close(stats.logps[i, :n].double(), logps, atol=1e-5, rtol=0)
        torch.testing.assert_close(stats.entropy[i, :n].double(), entropy, atol=1e-5, rtol=0)
        assert stats.logps[i, n:].abs().sum() == 0
        assert stats.entropy[i, n:].abs().sum() == 0


@pytest.mark.parametrize("sharing", ["padded", "shared"])
@pytest.mark.parametrize("with_entropy", [True, False])
def test_gradients_are_those_of_plain_passes(passes: str, sharing: str, with_entropy: bool):
    # In float64, but for what transformers computes in float32 all the same, such as norms.
    model = tiny().double()
    stats = group_logps(
        model,
        *rows(PROMPTS, "left"),
        *rows(COMPLETIONS, "right"),
        sharing=sharing,
        with_entropy=with_entropy,
    )
    (stats.logps.sum() + 0.5 * stats.entropy.sum()).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    weight = 0.5 if with_entropy else 0.0
    sum(logps.sum() + weight * h.sum() for logps, h in one_by_one(model, 1.0)).backward()
    for name, parameter in model.named_parameters():
        scale = parameter.grad.abs().max().item()
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-6 * scale, rtol=1e-5)


def test_without_gradient_nothing_is_kept():
    with torch.no_grad():
        stats = group_logps(tiny(), *rows(PROMPTS, "left"), *rows(COMPLETIONS, "right"))
    assert not stats.logps.requires_grad


def test_the_output_head_is_itself_again_after_an_error():
    model = tiny()
    ids, mask = rows(COMPLETIONS, "right")
    with pytest.raises(ValueError, match="temperature"):
        group_logps(model, *rows(PROMPTS, "left"), ids, mask, temperature=0.0)
    assert model(ids).logits.shape == (6, 4, 31)


def test_lora_on_the_output_head_is_refused():
    model = get_peft_model(
        tiny("llama"), LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM")
    )
    with pytest.raises(UserError, match="output head"):
        group_logps(model, *rows(PROMPTS, "left"), *rows(COMPLETIONS, "right"))


def test_models_that_change_their_logits_are_refused():
    model = tiny()
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(UserError, match="final_logit_softcapping"):
        group_logps(model, *rows(PROMPTS, "left"), *rows(COMPLETIONS, "right"))


def kept_logits(chunk_size: int) -> int:
    """Count the numbers, as wide as the vocabulary, that wait for backward."""
    sizes = []
    model = tiny().requires_grad_(True)

    def keep(tensor: Tensor) -> Tensor:
        if tensor.dim() == 2 and tensor.shape[1] == SIZES["vocab_size"]:
            sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        group_logps(
            model, *rows(PROMPTS, "left"), *rows(COMPLETIONS, "right"), chunk_size=chunk_size
        )
    return sum(sizes)


def test_logits_are_kept_for_backward_only_if_those_of_all_passes_are_one_chunk(passes: str):
    num_tokens = sum(map(len, COMPLETIONS))
    assert kept_logits(num_tokens) == num_tokens * SIZES["vocab_size"]
    # Each of the three passes alone would still be a single chunk.
    assert kept_logits(num_tokens - 1) == 0


def test_decoders_of_other_families_are_scored_as_their_own_logits_say():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=31, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    model = GPT2LMHeadModel(config)
    groups = *rows(PROMPTS, "left"), *rows(COMPLETIONS, "right")
    model.eval()
    stats = group_logps(model, *groups)
    for row, (expected, _) in zip(stats.logps, one_by_one(model, 1.0), strict=True):
        torch.testing.assert_close(row[: len(expected)].double(), expected, atol=1e-5, rtol=1e-5)
    # Trained with dropout between tokens, prompts and replies cannot be taken apart.
    model.train()
    group_logps(model, *groups)
    with pytest.raises(UserError, match=r"attn_pdrop 0\.1"):
        group_logps(model, *groups, sharing="shared")
