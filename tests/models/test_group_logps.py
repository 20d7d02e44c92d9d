import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

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


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_padded_batch_scores_what_each_sequence_scores_alone(kind: str, temperature: float):
    model = tiny(kind)
    stats = group_logps(
        model,
        *rows(PROMPTS, "left"),
        *rows(COMPLETIONS, "right"),
        temperature=temperature,
        sharing="padded",
        with_entropy=True,
    )
    assert stats.entropy is not None
    for i, (logps, entropy) in enumerate(one_by_one(model, temperature)):
        n = len(logps)
        torch.testing.assert_close(stats.logps[i, :n].double(), logps, atol=1e-5, rtol=0)
        torch.testing.assert_close(stats.entropy[i, :n].double(), entropy, atol=1e-5, rtol=0)
        assert stats.logps[i, n:].abs().sum() == 0
        assert stats.entropy[i, n:].abs().sum() == 0
