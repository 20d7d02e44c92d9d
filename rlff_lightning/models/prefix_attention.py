"""Attention over packed groups: replies see their prompt and themselves, never their siblings.

A reply's attention is taken in two parts, over the prompt and over the reply itself, and the parts
are merged by their log-sum-exp, which is exact. Neither a mask nor a padded row ever exists. The
backward pass hands each part's kernel the *merged* output and log-sum-exp: the part's
probabilities are then those of the whole softmax, so the parts' gradients simply add up.

Source: merging of partial softmaxes as in Rabe and Staats 2021, arXiv:2112.05682; the backward
pass as in Liu et al. 2023 (ring attention), arXiv:2310.01889.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rlff_lightning.models.attention_kernels import (
    Stretches,
    attend_stretches,
    attend_stretches_backward,
)

PREFIX_ATTENTION = "rlff_prefix_attention"
"""Name of this attention in transformers; without a layout it is transformers' own SDPA."""

Span = tuple[int, int]
"""First token of a stretch of the packed row, and the first one after it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixLayout:
    """Where prompts and replies lie in one packed row of S tokens: first all prompts."""

    sequences: tuple[Span, ...]
    """Every prompt and every reply; together they cover the row."""
    groups: tuple[tuple[Span, Span], ...]
    """For each group that has reply tokens: all its replies, and its prompt."""
    own: Stretches
    """Every prompt and every reply with itself."""
    prompts: Stretches
    """Every group's replies with its prompt; queries begin where the prompts end."""
    read: Tensor | None = None
    """Tokens whose hidden states are asked for, if the last layer shall give no others."""


class _PrefixAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: PrefixLayout, scale: float
    ) -> Tensor:
        out, lse = attend_stretches(query, key, value, layout.own, scale=scale)
        if layout.groups:
            first = layout.prompts.key_ends[-1]
            part, part_lse = attend_stretches(
                *(query[:, :, first:], key[:, :, :first], value[:, :, :first]),
                layout.prompts,
                scale=scale,
            )
            own, own_lse = out[:, :, first:], lse[:, :, first:]
            # exp(part_lse) / (exp(part_lse) + exp(lse)), the prompt's share of the whole softmax.
            share = torch.sigmoid(part_lse - own_lse)[..., None]
            own.copy_(own.to(share.dtype).lerp(part.to(share.dtype), share))
            own_lse.copy_(torch.logaddexp(own_lse, part_lse))
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, lse = ctx.saved_tensors
        layout, scale = ctx.layout, ctx.scale
        grads = attend_stretches_backward(
            grad, query, key, value, out, lse, layout.own, scale=scale
        )
        if layout.groups:
            first = layout.prompts.key_ends[-1]
            parts = attend_stretches_backward(
                *(grad[:, :, first:], query[:, :, first:], key[:, :, :first], value[:, :, :first]),
                *(out[:, :, first:], lse[:, :, first:]),
                layout.prompts,
                scale=scale,
            )
            replies, prompts = slice(first, None), slice(first)
            for whole, part, where in zip(grads, parts, (replies, prompts, prompts), strict=True):
                whole[:, :, where] += part
        return *grads, None, None


def _attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    prefix_layout: PrefixLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers asks for it, ``(1, heads, S, D)`` in and ``(1, S, heads, D)`` out."""
    if prefix_layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    unsupported = [name for name in ("sliding_window", "softcap", "s_aux") if kwargs.get(name)]
    if kwargs.get("dropout") or unsupported:
        raise ValueError(f"Prefix sharing is exact only without {unsupported or 'dropout'}")
    device = query.device.type
    if torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
        query, key, value = query.to(kind), key.to(kind), value.to(kind)
    num_siblings = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, num_siblings), repeat_kv(value, num_siblings)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(device, enabled=False):
        out: Tensor = _PrefixAttention.apply(  # type: ignore[no-untyped-call]
            query, key, value, prefix_layout, scale
        )
    return out.transpose(1, 2), None


AttentionInterface.register(PREFIX_ATTENTION, _attention_forward)
AttentionMaskInterface.register(PREFIX_ATTENTION, sdpa_mask)
