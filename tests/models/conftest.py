from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rlff_lightning.models import attention_kernels
from rlff_lightning.models.pocket import build_pocket_model


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<eos>", "<unk>", *(f"w{i}" for i in range(30))]
    vocabulary = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    vocabulary.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=vocabulary, eos_token="<eos>")


@pytest.fixture
def pocket_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path / "pocket"
    model = build_pocket_model(
        32, eos_id=0, pad_id=0, hidden_size=64, num_layers=2, num_heads=4, seed=5
    )
    for weight in model.parameters():  # biases and norms start at constants
        torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=["a call per stretch", "one call"])
def attention_form(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Prefix attention as a CPU computes it, and as a GPU does, with plain sums for its kernel."""
    if request.param == "a call per stretch":
        yield request.param
        return
    monkeypatch.setattr(attention_kernels, "_has_cuda_kernel", lambda query: True)
    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", _varlen_forward, "CPU")
    library.impl("_flash_attention_backward", _varlen_backward, "CPU")
    yield request.param
    library._destroy()


def _varlen_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_offsets: Tensor,
    key_offsets: Tensor,
    most_queries: int,
    most_keys: int,
    dropout: float,
    is_causal: bool,
    with_debug_mask: bool,
    *,
    scale: float,
    **unused: Any,
) -> tuple[Tensor, ...]:
    """Do what torch documents of its CUDA kernel: ``(S, heads, D)``, log-sum-exp ``(heads, S)``."""
    assert query_offsets.dtype == key_offsets.dtype == torch.int32
    assert int(query_offsets[-1]) == len(query)
    assert int(key_offsets[-1]) == len(key)
    out, lse = torch.zeros_like(query), query.new_zeros(query.shape[1], len(query))
    for own, seen, scores in _stretch_scores(
        query, key, (query_offsets, key_offsets), is_causal, scale
    ):
        assert own.stop - own.start <= most_queries
        assert seen.stop - seen.start <= most_keys
        out[own] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[seen])
        lse[:, own] = scores.logsumexp(-1)
    empty = query.new_empty(0)
    return out, lse, empty, empty, empty


def _varlen_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    query_offsets: Tensor,
    key_offsets: Tensor,
    most_queries: int,
    most_keys: int,
    dropout: float,
    is_causal: bool,
    *unused: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Take the probabilities from the given log-sum-exp, as flash attention does."""
    grads = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    for own, seen, scores in _stretch_scores(
        query, key, (query_offsets, key_offsets), is_causal, scale
    ):
        probs = (scores - lse[:, own, None]).exp()
        pulls = torch.einsum("qhd,khd->hqk", grad[own], value[seen])
        pulls = probs * (pulls - (grad[own] * out[own]).sum(-1).T[..., None]) * scale
        grads[0][own] = torch.einsum("hqk,khd->qhd", pulls, key[seen])
        grads[1][seen] = torch.einsum("hqk,qhd->khd", pulls, query[own])
        grads[2][seen] = torch.einsum("hqk,qhd->khd", probs, grad[own])
    return grads


def _stretch_scores(
    query: Tensor,
    key: Tensor,
    offsets: tuple[Tensor, Tensor],
    is_causal: bool,
    scale: float,
) -> Iterator[tuple[slice, slice, Tensor]]:
    ends = [side.tolist() for side in offsets]
    for queries, keys in zip(*map(pairwise, ends), strict=True):
        own, seen = slice(*queries), slice(*keys)
        scores = torch.einsum("qhd,khd->hqk", query[own], key[seen]) * scale
        if is_causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        yield own, seen, scores
