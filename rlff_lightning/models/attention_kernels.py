"""Attention that also tells its log-sum-exp, so that its result can be merged with another's.

Queries and keys lie in stretches, all in one row, and each stretch of queries sees one stretch of
keys. A CUDA kernel takes all stretches in one call, whatever their lengths; elsewhere neighbours
of one length are a call, to the CPU's flash kernel or to plain matrix products. No mask exists at
length.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

CPU_CAUSAL_QUERIES = 128
"""Queries per causal backward call on a CPU, whose kernel computes what a longer one hides too."""


Call = tuple[slice, slice, bool]
"""Queries, their keys, and whether query i sees keys up to i alone."""


class Run(NamedTuple):
    """Neighbouring stretches of one length."""

    queries: slice
    """All their queries."""
    keys: slice
    """All their keys."""
    lengths: tuple[int, int]
    """Queries and keys of each stretch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretches:
    """Which queries see which keys: stretch i of the one sees stretch i of the other."""

    query_ends: tuple[int, ...]
    """Where the first stretch of queries begins, 0, and where each ends; may be empty ones."""
    key_ends: tuple[int, ...]
    """The same of keys."""
    is_causal: bool
    """Query i of a stretch sees its keys up to i; needs equal stretches."""
    query_offsets: Tensor
    """``query_ends`` where a CUDA kernel reads them, int32."""
    key_offsets: Tensor
    """``key_ends`` where a CUDA kernel reads them, int32."""

    @classmethod
    def between(
        cls,
        query_ends: tuple[int, ...],
        key_ends: tuple[int, ...],
        *,
        is_causal: bool,
        device: torch.device,
    ) -> "Stretches":
        """Make stretches from where they end."""
        return cls(
            query_ends=query_ends,
            key_ends=key_ends,
            is_causal=is_causal,
            query_offsets=torch.tensor(query_ends, dtype=torch.int32, device=device),
            key_offsets=torch.tensor(key_ends, dtype=torch.int32, device=device),
        )

    def runs(self) -> list["Run"]:
        """List the stretches, neighbours of one length together, without those of no query."""
        runs: list[Run] = []
        for queries, keys in zip(pairwise(self.query_ends), pairwise(self.key_ends), strict=True):
            lengths = queries[1] - queries[0], keys[1] - keys[0]
            if runs and runs[-1].lengths == lengths and runs[-1].keys.stop == keys[0]:
                first = runs.pop()
                queries, keys = (first.queries.start, queries[1]), (first.keys.start, keys[1])
            if lengths[0]:
                runs.append(Run(slice(*queries), slice(*keys), lengths))
        return runs

    @property
    def longest(self) -> tuple[int, int]:
        """Most queries and most keys of a stretch."""
        ends = self.query_ends, self.key_ends
        most_queries, most_keys = (max(b - a for a, b in pairwise(side)) for side in ends)
        return most_queries, most_keys


def attend_stretches(
    query: Tensor, key: Tensor, value: Tensor, stretches: Stretches, *, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend within every stretch.

    Args:
        query: ``(1, heads, Q, D)``.
        key: ``(1, heads, K, D)``.
        value: ``(1, heads, K, D)``.
        stretches: Cover Q and K.
        scale: Factor of the scores.

    Returns:
        As ``attend``, for all stretches.
    """
    if _has_cuda_kernel(query):
        out, lse = torch.ops.aten._flash_attention_forward(
            *(_tokens_first(x) for x in (query, key, value)),
            *(stretches.query_offsets, stretches.key_offsets, *stretches.longest),
            *(0.0, stretches.is_causal, False),
            scale=scale,
        )[:2]
        return _heads_first(out), lse[None]
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:-1], dtype=torch.promote_types(query.dtype, torch.float32))
    for queries, keys, (length, num_keys) in stretches.runs():
        outs, lses = attend(
            _one_by_one(query[:, :, queries], length),
            _one_by_one(key[:, :, keys], num_keys),
            _one_by_one(value[:, :, keys], num_keys),
            is_causal=stretches.is_causal,
            scale=scale,
        )
        _one_by_one(out[:, :, queries], length).copy_(outs)
        _one_by_one(lse[:, :, queries], length).copy_(lses)
    return out, lse


def attend_stretches_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    stretches: Stretches,
    *,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Backpropagate through ``attend_stretches``, as ``attend_backward`` does through ``attend``.

    Returns:
        Gradients of query, key and value, in their shapes.
    """
    if _has_cuda_kernel(query):
        unused = torch.zeros(2, dtype=torch.uint64, device=query.device)
        found = torch.ops.aten._flash_attention_backward(
            *(_tokens_first(x) for x in (grad, query, key, value, out)),
            *(lse[0].contiguous(), stretches.query_offsets, stretches.key_offsets),
            *(*stretches.longest, 0.0, stretches.is_causal, unused, unused),
            scale=scale,
        )
        return _heads_first(found[0]), _heads_first(found[1]), _heads_first(found[2])
    grads = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    for queries, keys, (length, num_keys) in stretches.runs():
        by_query, by_key = (
            [_one_by_one(x[:, :, where], each) for x in sides]
            for sides, where, each in (
                ((grad, query, out, lse, grads[0]), queries, length),
                ((key, value, *grads[1:]), keys, num_keys),
            )
        )
        for some, seen, is_causal in _backward_calls(length, num_keys, stretches.is_causal):
            own_grad, own, own_out, own_lse, query_grad = (x[:, :, some] for x in by_query)
            known, told, *key_grads = (x[:, :, seen] for x in by_key)
            parts = attend_backward(
                *(own_grad, own, known, told, own_out, own_lse), is_causal=is_causal, scale=scale
            )
            for whole, part in zip((query_grad, *key_grads), parts, strict=True):
                whole += part
    return grads


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend and keep each query's log-sum-exp.

    out_i = sum_j p_ij v_j,  p_ij = exp(s_ij - lse_i),  lse_i = log sum_j exp(s_ij),
    s_ij = scale q_i . k_j

    Args:
        query: ``(B, heads, Q, D)``.
        key: ``(B, heads, K, D)``.
        value: ``(B, heads, K, D)``.
        is_causal: Query i sees keys up to i; needs Q = K.
        scale: Factor of the scores.

    Returns:
        The output ``(B, heads, Q, D)`` and the log-sum-exp ``(B, heads, Q)``, the latter in float32
        or better.
    """
    if _has_cpu_kernel(query):
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, is_causal, scale=scale
        )
        return out, lse
    scores = _plain_scores(query, key, is_causal=is_causal, scale=scale)
    lse = scores.logsumexp(-1)
    return ((scores - lse[..., None]).exp() @ value.to(scores.dtype)).to(query.dtype), lse


def attend_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    *,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Backpropagate through ``attend``, or through its part of a merged attention.

    dS = P * (dO V^T - rowsum(dO * O)),  dQ = scale dS K,  dK = scale dS^T Q,  dV = P^T dO,
    where P = exp(S - lse). With the merged O and lse, P holds this part's share of the whole
    softmax and the results are this part's share of the whole gradient.

    Args:
        grad: Gradient of the (merged) output, ``(B, heads, Q, D)``.
        query: As in ``attend``.
        key: As in ``attend``.
        value: As in ``attend``.
        out: The (merged) output.
        lse: The (merged) log-sum-exp, ``(B, heads, Q)``.
        is_causal: As in ``attend``.
        scale: As in ``attend``.

    Returns:
        Gradients of query, key and value, in their shapes.
    """
    if _has_cpu_kernel(query):
        grads: tuple[Tensor, Tensor, Tensor]
        grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, key, value, out, lse, 0.0, is_causal, scale=scale
        )
        return grads
    probs = (_plain_scores(query, key, is_causal=is_causal, scale=scale) - lse[..., None]).exp()
    grad, keys, values = (x.to(probs.dtype) for x in (grad, key, value))
    grad_probs = grad @ values.mT - (grad * out.to(probs.dtype)).sum(-1, keepdim=True)
    grad_scores = probs * grad_probs * scale
    return (
        (grad_scores @ keys).to(query.dtype),
        (grad_scores.mT @ query.to(probs.dtype)).to(key.dtype),
        (probs.mT @ grad).to(value.dtype),
    )


def _backward_calls(num_queries: int, num_keys: int, is_causal: bool) -> Iterator[Call]:
    """Split a stretch of queries: each part sees the keys before it in full, then itself."""
    if not is_causal:
        yield slice(num_queries), slice(num_keys), False
        return
    for start in range(0, num_queries, CPU_CAUSAL_QUERIES):
        some = slice(start, min(start + CPU_CAUSAL_QUERIES, num_queries))
        if start:
            yield some, slice(start), False
        yield some, some, True


def _one_by_one(row: Tensor, length: int) -> Tensor:
    """See ``(1, heads, C * length, ...)`` as stretches ``(C, heads, length, ...)``."""
    return torch.unflatten(row, 2, (-1, length))[0].transpose(0, 1)


def has_kernel(device: str, dtype: torch.dtype, width: int) -> bool:
    """Tell whether attention runs without a matrix of scores.

    Args:
        device: Type of device that computes, e.g. ``cuda``.
        dtype: Of queries, keys and values.
        width: Of a head, D.
    """
    is_half = dtype in (torch.float16, torch.bfloat16)
    return device == "cpu" or (device == "cuda" and is_half and width % 8 == 0 and width <= 256)


def _has_cpu_kernel(query: Tensor) -> bool:
    return query.device.type == "cpu"


def _has_cuda_kernel(query: Tensor) -> bool:
    device = query.device.type
    return device == "cuda" and has_kernel(device, query.dtype, query.shape[-1])


def _tokens_first(row: Tensor) -> Tensor:
    """Turn ``(1, heads, S, D)`` into ``(S, heads, D)``, as the CUDA kernel lays rows out."""
    return row[0].transpose(0, 1).contiguous()


def _heads_first(row: Tensor) -> Tensor:
    return row.transpose(0, 1)[None]


def _plain_scores(query: Tensor, key: Tensor, *, is_causal: bool, scale: float) -> Tensor:
    kind = torch.promote_types(query.dtype, torch.float32)
    scores = query.to(kind) @ key.to(kind).mT * scale
    if is_causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores
