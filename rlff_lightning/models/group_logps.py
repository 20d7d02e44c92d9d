"""Log-probabilities of groups: what the policy now thinks of every completion token."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlff_lightning.errors import UserError
from rlff_lightning.functional.log_probs import TokenStats, token_logps
from rlff_lightning.models.output_head import causal_lm_of, head_replaced, output_head
from rlff_lightning.models.prefix_sharing import pack_groups, use_prefix_attention, why_not_shared
from rlff_lightning.models.sharing_cost import is_sharing_cheaper

Sharing = Literal["auto", "shared", "padded"]
"""A prompt is computed once per group, once per completion, or whichever costs less."""


def group_logps(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    *,
    temperature: float = 1.0,
    sharing: Sharing = "auto",
    with_entropy: bool = False,
    chunk_size: int | None = None,
) -> TokenStats:
    """Score completion tokens given their prompt, with gradient where the caller wants it.

    Args:
        model: A causal language model of transformers, or a PEFT model around one.
        prompt_ids: One prompt per group, left-padded, ``(N, P)``.
        prompt_mask: ``True`` at prompt tokens, ``(N, P)``.
        completion_ids: G completions per prompt, right-padded, siblings adjacent, ``(N * G, T)``.
        completion_mask: ``True`` at completion tokens, ``(N * G, T)``.
        temperature: Divides the logits before the softmax.
        sharing: How a group's prompt is computed; all ways agree to rounding.
        with_entropy: The entropy enters the loss; otherwise it is without gradient.
        chunk_size: Tokens whose logits exist at once; by default as many as 128 MiB hold.

    Returns:
        ``logps`` and ``entropy``, both ``(N * G, T)`` in nats, 0 where the completion mask is
        false.

    Raises:
        ValueError: If the shapes disagree, a prompt is empty, or padding is on the wrong side.
        UserError: If ``sharing`` is ``shared`` and the model's attention does not allow it.
    """
    _check(prompt_ids, prompt_mask, completion_ids, completion_mask)
    head = output_head(model)
    tokens = completion_ids[completion_mask]
    inputs, predictors = _model_inputs(
        model, sharing, prompt_ids, prompt_mask, completion_ids, completion_mask
    )

    def score(hidden: Tensor) -> Tensor:
        """Return ``(M, 2)``: log-probability and entropy of each real completion token."""
        stats = token_logps(
            hidden.flatten(0, 1)[predictors],
            head.weight,
            tokens,
            temperature=temperature,
            chunk_size=chunk_size,
            bias=head.bias,
        )
        return torch.stack([stats.logps, stats.entropy if with_entropy else stats.entropy.detach()])

    with head_replaced(head, score):
        logps, entropy = model(**inputs, use_cache=False).logits
    return TokenStats(_spread(logps, completion_mask), _spread(entropy, completion_mask))


def _model_inputs(
    model: nn.Module,
    sharing: Sharing,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
) -> tuple[dict[str, Any], Tensor]:
    """Choose packed or padded inputs; with them the places that predict completion tokens."""
    groups = prompt_ids, prompt_mask, completion_ids, completion_mask
    if sharing == "padded":
        return _padded(*groups)
    obstacle = why_not_shared(model)
    if obstacle and sharing == "shared":
        raise UserError(f"sharing must be 'padded' or 'auto' for this model: {obstacle}")
    if obstacle:
        return _padded(*groups)
    packed = pack_groups(*groups)
    if sharing == "auto" and not is_sharing_cheaper(
        causal_lm_of(model).config.get_text_config(),
        packed.layout,
        num_rows=len(completion_ids),
        width=prompt_ids.shape[1] + completion_ids.shape[1] - 1,
        device=prompt_ids.device.type,
    ):
        return _padded(*groups)
    use_prefix_attention(model)
    return packed.model_inputs(), packed.predictors


def _padded(
    prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor
) -> tuple[dict[str, Any], Tensor]:
    """Repeat every prompt before each of its completions; the last token predicts nothing."""
    group_size = len(completion_ids) // len(prompt_ids)
    ids = torch.cat([prompt_ids.repeat_interleave(group_size, 0), completion_ids], 1)[:, :-1]
    mask = torch.cat([prompt_mask.repeat_interleave(group_size, 0), completion_mask], 1)[:, :-1]
    inputs = {
        "input_ids": ids,
        "attention_mask": mask.long(),
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
    }
    rows, steps = completion_mask.nonzero(as_tuple=True)
    return inputs, rows * ids.shape[1] + prompt_ids.shape[1] - 1 + steps


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """Put one value per real token back where the mask is true."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)


def _check(
    prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor
) -> None:
    if prompt_ids.shape != prompt_mask.shape or completion_ids.shape != completion_mask.shape:
        raise ValueError(
            "Masks must have the shape of their ids, got prompts "
            f"{tuple(prompt_ids.shape)} and {tuple(prompt_mask.shape)}, completions "
            f"{tuple(completion_ids.shape)} and {tuple(completion_mask.shape)}"
        )
    if len(prompt_ids) == 0 or len(completion_ids) % len(prompt_ids):
        raise ValueError(
            f"{len(completion_ids)} completions must be whole groups of {len(prompt_ids)} prompts"
        )
    if (prompt_mask[:, :-1] & ~prompt_mask[:, 1:]).any() or not prompt_mask.any(1).all():
        raise ValueError("Prompts must be left-padded and hold at least one token")
    if (completion_mask[:, 1:] & ~completion_mask[:, :-1]).any():
        raise ValueError("Completions must be right-padded")
