"""Probability ratios: between two versions of the policy, and between trainer and engine.

Gradients flow through ``logps`` alone; the caller passes every other log-probability detached.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlff_lightning.functional.masked import masked_mean

MAX_LOG_RATIO = 20.0
"""Above it a ratio stops growing: exp overflows float32 at 88.7 and gradients become nan."""


def token_ratios(logps: Tensor, old_logps: Tensor, loss_mask: Tensor) -> Tensor:
    """Compare the policy now with the policy that sampled, token by token.

    r_t = pi(y_t | y_<t) / pi_old(y_t | y_<t)

    Args:
        logps: Log-probabilities now, ``(B, T)``, nats.
        old_logps: The same at rollout, detached.
        loss_mask: Tokens that train, ``(B, T)``.

    Returns:
        ``(B, T)``; 1 where nothing trains.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 6.
    """
    return _log_ratios(logps, old_logps, loss_mask).clamp(max=MAX_LOG_RATIO).exp()


def sequence_ratios(logps: Tensor, old_logps: Tensor, loss_mask: Tensor) -> Tensor:
    """Compare whole completions by the geometric mean of their token ratios.

    s = (pi(y) / pi_old(y)) ^ (1 / |y|)

    Args:
        logps: Log-probabilities now, ``(B, T)``, nats.
        old_logps: The same at rollout, detached.
        loss_mask: Tokens that train, ``(B, T)``.

    Returns:
        ``(B, T)``, the same value all along a row; 1 where nothing trains.

    Source: Zheng et al. 2025, arXiv:2507.18071, eq. 7.
    """
    means = masked_mean(_log_ratios(logps, old_logps, loss_mask), loss_mask, dim=-1)
    ratios = means.clamp(max=MAX_LOG_RATIO).exp()
    return torch.where(loss_mask, ratios.unsqueeze(-1), 1.0)


class MismatchWeights(NamedTuple):
    """What makes up for an engine that samples from slightly other weights than the trainer's."""

    weights: Tensor
    """Factor of each token's policy loss, ``(B, T)``."""
    ratios: Tensor
    """Trainer's probability over the engine's, uncut, ``(B, T)``; 1 where nothing trains."""
    is_capped: Tensor
    """The ratio is above the cap, ``(B, T)``."""
    is_dropped: Tensor
    """The whole sequence is left out, ``(B,)``."""


def mismatch_weights(
    old_logps: Tensor,
    sampling_logps: Tensor,
    loss_mask: Tensor,
    *,
    cap: float | None = 2.0,
    sequence_range: tuple[float, float] | None = None,
) -> MismatchWeights:
    """Weight tokens by truncated importance sampling and drop sequences far off the policy.

    w_t = min(pi_old(y_t) / mu(y_t), cap), and w_t = 0 for all t of a sequence whose geometric mean
    (prod_t pi_old(y_t) / mu(y_t)) ^ (1 / |y|) is outside ``sequence_range``

    Args:
        old_logps: The trainer's log-probabilities at rollout, ``(B, T)``, nats, detached.
        sampling_logps: The engine's, as reported with the tokens.
        loss_mask: Tokens that train, ``(B, T)``.
        cap: Upper bound of a token's weight; ``None`` weights every kept token 1.
        sequence_range: Lowest and highest geometric mean that is kept; ``None`` keeps all.

    Returns:
        Weights and what they were made from.

    Source: Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training" (truncation); Liu et al. 2025, "When Speed Kills Stability" (geometric mean).
    """
    log_ratios = _log_ratios(old_logps, sampling_logps, loss_mask)
    ratios = log_ratios.clamp(max=MAX_LOG_RATIO).exp()
    weights = torch.ones_like(ratios) if cap is None else ratios.clamp(max=cap)
    is_capped = torch.zeros_like(loss_mask) if cap is None else ratios > cap
    is_dropped = torch.zeros_like(loss_mask[:, 0])
    if sequence_range is not None:
        low, high = sequence_range
        means = masked_mean(log_ratios, loss_mask, dim=-1).exp()
        is_dropped = (means < low) | (means > high)
        weights = torch.where(is_dropped.unsqueeze(-1), 0.0, weights)
    return MismatchWeights(weights, ratios, is_capped, is_dropped)


def _log_ratios(logps: Tensor, other_logps: Tensor, mask: Tensor) -> Tensor:
    # Masked before any exp: what lies under the mask may be inf or nan, also in backward.
    return torch.where(mask, logps - other_logps, 0.0)
