"""The losses whose gradient is a policy gradient, per token: no mask, no mean, no coefficient."""

from typing import NamedTuple

import torch
from torch import Tensor


class Surrogate(NamedTuple):
    """A policy loss per token and where it was clipped; all ``(B, T)``."""

    loss: Tensor
    """To be minimised."""
    ratios: Tensor
    """Policy now over policy at rollout, unclipped."""
    is_clipped_low: Tensor
    """A bad token already became rare enough: no gradient."""
    is_clipped_high: Tensor
    """A good token already became likely enough: no gradient (CISPO: a bounded one)."""


def clipped_surrogate(
    ratios: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    max_ratio: float | None = None,
) -> Surrogate:
    """Improve good tokens and worsen bad ones, up to a bound on either side.

    L = -min(min(r, delta) A, clip(r, 1 - clip_low, 1 + clip_high) A)

    Args:
        ratios: Token or sequence ratios with gradient, ``(B, T)``.
        advantages: Broadcast against the ratios, e.g. ``(B, 1)``.
        clip_low: A bad token's ratio stops mattering below 1 - clip_low.
        clip_high: A good token's ratio stops mattering above 1 + clip_high.
        max_ratio: Delta, bounds the ratio of a bad token that became likely; ``None``: no bound.

    Returns:
        Loss per token, ``(B, T)``; its gradient at ratio 1 is -A times that of ``logps``.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; Yu et al. 2025, arXiv:2503.14476, eq. 10
    (separate bounds); Prime Intellect 2025, arXiv:2505.07291 (delta).
    """
    bounded = ratios if max_ratio is None else ratios.clamp(max=max_ratio)
    clipped = ratios.clamp(1 - clip_low, 1 + clip_high)
    return Surrogate(
        loss=-torch.minimum(bounded * advantages, clipped * advantages),
        ratios=ratios,
        is_clipped_low=(ratios < 1 - clip_low) & (advantages < 0),
        is_clipped_high=(ratios > 1 + clip_high) & (advantages > 0),
    )


def clipped_weight_surrogate(
    ratios: Tensor,
    advantages: Tensor,
    logps: Tensor,
    *,
    clip_low: float | None,
    clip_high: float,
) -> Surrogate:
    """Weight REINFORCE by a clipped ratio, so that every token keeps a gradient.

    L = -sg(clip(r, 1 - clip_low, 1 + clip_high)) A log pi, where sg stops the gradient

    Args:
        ratios: Token ratios, ``(B, T)``; the formula's sg is done here.
        advantages: Broadcast against the ratios, e.g. ``(B, 1)``.
        logps: Log-probabilities now, with gradient, ``(B, T)``, nats, finite.
        clip_low: The weight is at least 1 - clip_low; ``None`` leaves small weights alone.
        clip_high: The weight is at most 1 + clip_high.

    Returns:
        Loss per token, ``(B, T)``; its gradient at ratio 1 is -A times that of ``logps``.

    Source: MiniMax 2025, arXiv:2506.13585, eq. 4 and 5.
    """
    low = None if clip_low is None else 1 - clip_low
    weights = ratios.clamp(low, 1 + clip_high).detach()
    return Surrogate(
        loss=-weights * advantages * logps,
        ratios=ratios,
        is_clipped_low=torch.zeros_like(ratios, dtype=torch.bool) if low is None else ratios < low,
        is_clipped_high=ratios > 1 + clip_high,
    )
