"""Log-probabilities of groups: what the policy now thinks of every completion token."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlff_lightning.functional.log_probs import TokenStats, token_logps
from rlff_lightning.models.group_inputs import Sharing, check_groups, group_inputs
from rlff_lightning.models.output_head import head_replaced, output_head

__all__ = ["Sharing", "group_logps"]

CPU_PASS_TOKENS = 2048
"""Tokens that a CPU reads at once, groups kept whole: more leave its cache between operations."""


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
        chunk_size: Tokens whose logits exist at once; by default as many as `token_logps` takes.

    Returns:
        ``logps`` and ``entropy``, both ``(N * G, T)`` in nats, 0 where the completion mask is
        false.

    Raises:
        ValueError: If the shapes disagree, a prompt is empty, or padding is on the wrong side.
        UserError: If ``sharing`` is ``shared`` and the model's attention does not allow it.
    """
    groups = prompt_ids, prompt_mask, completion_ids, completion_mask
    check_groups(*groups)
    head = output_head(model)
    num_tokens = int(completion_mask.sum())
    settings = _Settings(temperature, sharing, with_entropy, chunk_size, num_tokens)
    stats = [_one_pass(model, head, settings, *part) for part in _passes(model, *groups)]
    logps, entropy = torch.cat(stats, dim=1)
    return TokenStats(_spread(logps, completion_mask), _spread(entropy, completion_mask))


class _Settings(NamedTuple):
    temperature: float
    sharing: Sharing
    with_entropy: bool
    chunk_size: int | None
    num_tokens: int
    """Completion tokens of all passes."""


def groups_per_pass(num_groups: int, num_tokens: int) -> int:
    """Say how many of the groups, which have so many tokens in all, a CPU reads at once."""
    return math.ceil(num_groups / math.ceil(num_tokens / CPU_PASS_TOKENS))


def _passes(model: nn.Module, *groups: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split whole groups into passes whose activations stay in a CPU's cache."""
    prompt_ids, prompt_mask, completion_ids, completion_mask = groups
    # Every rank gathers a sharded model's weights as often as the others do: in one pass.
    is_sharded = any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
    if prompt_ids.device.type != "cpu" or is_sharded:
        yield groups
        return
    num_groups, num_rows = len(prompt_ids), len(completion_ids)
    num_tokens = int(prompt_mask.sum() + completion_mask.sum())
    step = groups_per_pass(num_groups, num_tokens)
    rows = step * (num_rows // num_groups)
    sizes = step, step, rows, rows
    sides = [torch.split(side, size) for side, size in zip(groups, sizes, strict=True)]
    yield from zip(*sides, strict=True)


def _one_pass(
    model: nn.Module,
    head: nn.Linear,
    settings: _Settings,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
) -> Tensor:
    """Return ``(2, M)``: log-probability and entropy of each real completion token."""
    groups = prompt_ids, prompt_mask, completion_ids, completion_mask
    inputs = group_inputs(model, settings.sharing, *groups)
    tokens = completion_ids[completion_mask]

    def score(hidden: Tensor) -> Tensor:
        stats = token_logps(
            inputs.take(hidden),
            head.weight,
            tokens,
            temperature=settings.temperature,
            chunk_size=settings.chunk_size,
            bias=head.bias,
            num_rows=settings.num_tokens,
        )
        entropy = stats.entropy if settings.with_entropy else stats.entropy.detach()
        return torch.stack([stats.logps, entropy])

    with head_replaced(head, score):
        found: Tensor = model(**inputs.inputs, use_cache=False).logits
    return found


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """Put one value per real token back where the mask is true."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
