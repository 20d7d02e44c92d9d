"""Compute a group's prompt once, with gradient: prompts and replies packed into one row."""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlff_lightning.models.attention_kernels import Stretches
from rlff_lightning.models.output_head import transformers_model
from rlff_lightning.models.prefix_attention import PREFIX_ATTENTION, PrefixLayout

_DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
"""How configurations name the dropout of attention probabilities."""

_LAYOUT_LOST = ("doge", "nemotron")
"""Kinds of model whose layers take what they hand to attention from elsewhere, or drop it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedGroups:
    """N prompts and their N * G completions in one row without padding. S tokens, M predicted."""

    input_ids: Tensor
    """All prompts, then all completions, ``(1, S)``."""
    position_ids: Tensor
    """Places in the conversation: every completion goes on where its prompt ends, ``(1, S)``."""
    layout: PrefixLayout
    """Who attends to whom."""
    predictors: Tensor
    """Index of the token before each completion token, ``(M,)``, in the mask's order."""
    last: Tensor
    """Index of each completion's last packed token, or of its prompt's, ``(N * G,)``."""

    def model_inputs(self) -> dict[str, Any]:
        """Return what a model with prefix attention is called with."""
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            # Four dimensions: transformers hands it on unread. Nothing attends by an empty mask, so
            # a model that drops the layout on the way fails instead of mixing up sequences.
            "attention_mask": self.input_ids.new_empty((1, 1, 0, 0), dtype=torch.bool),
            "prefix_layout": self.layout,
        }


def pack_groups(
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    *,
    with_last_token: bool = False,
) -> PackedGroups:
    """Lay out groups so that each prompt occurs once.

    Args:
        prompt_ids: Left-padded, ``(N, P)``.
        prompt_mask: ``True`` at prompt tokens, at least one per row, ``(N, P)``.
        completion_ids: Right-padded, siblings adjacent, ``(N * G, T)``.
        completion_mask: ``True`` at completion tokens, ``(N * G, T)``.
        with_last_token: Pack every completion's last token too, which predicts nothing.

    Returns:
        S = sum of prompt lengths + sum over completions of (length - 1) tokens, or of all.
    """
    device = prompt_ids.device
    group_size = len(completion_ids) // len(prompt_ids)
    steps = torch.arange(completion_ids.shape[1], device=device)
    prompt_lengths, lengths = prompt_mask.sum(1), completion_mask.sum(1)
    fed_lengths = lengths if with_last_token else (lengths - 1).clamp(min=0)
    fed = steps < fed_lengths[:, None]
    first_places = prompt_lengths.repeat_interleave(group_size)[:, None]

    prompt_ends = prompt_lengths.cumsum(0)
    starts = prompt_ends[-1] + fed_lengths.cumsum(0) - fed_lengths
    own_prompt_ends = (prompt_ends - 1).repeat_interleave(group_size)
    predictors = starts[:, None] + steps - 1
    predictors[:, :1] = own_prompt_ends[:, None]
    return PackedGroups(
        input_ids=torch.cat([prompt_ids[prompt_mask], completion_ids[fed]])[None],
        position_ids=torch.cat(
            [(prompt_mask.cumsum(1) - 1)[prompt_mask], (first_places + steps)[fed]]
        )[None],
        layout=_layout(prompt_lengths.tolist(), fed_lengths.tolist(), device),
        predictors=predictors[completion_mask],
        last=torch.where(fed_lengths > 0, starts + fed_lengths - 1, own_prompt_ends),
    )


def _layout(
    prompt_lengths: list[int], fed_lengths: list[int], device: torch.device
) -> PrefixLayout:
    ends = tuple(accumulate(prompt_lengths + fed_lengths, initial=0))
    spans = list(pairwise(ends))
    num_groups = len(prompt_lengths)
    group_size = len(fed_lengths) // num_groups
    prompt_ends, group_ends = ends[: num_groups + 1], ends[num_groups::group_size]
    groups = zip(pairwise(group_ends), spans[:num_groups], strict=True)
    return PrefixLayout(
        sequences=tuple(span for span in spans if span[0] < span[1]),
        groups=tuple(group for group in groups if group[0][0] < group[0][1]),
        own=Stretches.between(ends, ends, is_causal=True, device=device),
        prompts=Stretches.between(
            tuple(end - group_ends[0] for end in group_ends),
            prompt_ends,
            is_causal=False,
            device=device,
        ),
    )


def is_causal(model: nn.Module) -> bool:
    """Tell a decoder, whose tokens see those before them alone, from an encoder."""
    return all(getattr(module, "is_causal", True) for module in model.modules())


def why_not_shared(model: nn.Module) -> str | None:
    """Say what keeps ``model`` from exact prefix sharing, or ``None`` if nothing does."""
    base = transformers_model(model)
    if not is_causal(base):
        return f"{type(base).__name__} is an encoder: its prompt sees the reply"
    config = base.config.get_text_config()
    implementation = config._attn_implementation
    if implementation not in ("sdpa", PREFIX_ATTENTION):
        return f"attention implementation {implementation!r} is not 'sdpa'"
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention"}:
        return f"layers of kind {sorted(kinds - {'full_attention'})}"
    if not kinds and getattr(config, "sliding_window", None):
        return "sliding-window attention"
    dropouts = [name for name in _DROPOUTS if getattr(config, name, None)]
    if model.training and dropouts:
        return f"{dropouts[0]} {getattr(config, dropouts[0])}"
    if getattr(config, "attn_logit_softcapping", None):
        return f"attn_logit_softcapping {config.attn_logit_softcapping}"
    if getattr(config, "output_router_logits", False):
        return "output_router_logits, which need a mask"
    if getattr(config, "v_head_dim", None) not in (None, getattr(config, "qk_head_dim", None)):
        return f"values of another width, {config.v_head_dim}, than keys"
    if not base._supports_attention_backend or config.model_type in _LAYOUT_LOST:
        return f"{type(base).__name__} does not take an attention function"
    return None


def use_prefix_attention(model: nn.Module) -> None:
    """Switch the model to prefix attention, which without a layout is SDPA as before."""
    base: PreTrainedModel = transformers_model(model)
    if base.config._attn_implementation != PREFIX_ATTENTION:
        base.set_attn_implementation(PREFIX_ATTENTION)
