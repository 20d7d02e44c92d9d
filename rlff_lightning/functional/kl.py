"""Estimates of KL(policy || reference) from the log-probabilities of sampled tokens.

With d = log q - log p for the policy p and the reference q, and tokens drawn from p, k1 and k3
have the KL as their expectation. As a loss, differentiated through p's log-probabilities, k2 gives
the gradient of the KL on average; k1 gives 0 on average, so it belongs in the reward.
"""

from typing import Literal

import torch
from torch import Tensor

from rlff_lightning.errors import UserError
from rlff_lightning.functional.masked import masked_sum
from rlff_lightning.functional.ratios import MAX_LOG_RATIO

KLEstimator = Literal["k1", "k2", "k3"]
"""Which estimate: unbiased and signed, squared, or unbiased and never negative."""


def k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Estimate the KL without bias; a single token's value may be negative.

    k1 = -d = logps - ref_logps

    Args:
        logps: Log-probabilities under the policy, any shape, nats.
        ref_logps: The same under the reference.

    Returns:
        One value per token, nats.

    Source: Schulman 2020, "Approximating KL Divergence", joschu.net/blog/kl-approx.html.
    """
    return logps - ref_logps


def k2(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Estimate the KL with little variance and a bias that vanishes as the two get close.

    k2 = d^2 / 2

    Args:
        logps: Log-probabilities under the policy, any shape, nats.
        ref_logps: The same under the reference.

    Returns:
        One value per token, nats, at least 0.

    Source: Schulman 2020, "Approximating KL Divergence", joschu.net/blog/kl-approx.html.
    """
    return (ref_logps - logps).square() / 2


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Estimate the KL without bias and never below 0.

    k3 = exp(d) - 1 - d, with d taken as ``MAX_LOG_RATIO`` at most, as in every ratio

    Args:
        logps: Log-probabilities under the policy, any shape, nats.
        ref_logps: The same under the reference.

    Returns:
        One value per token, nats, at least 0.

    Source: Schulman 2020, "Approximating KL Divergence", joschu.net/blog/kl-approx.html;
    Shao et al. 2024, arXiv:2402.03300, eq. 4.
    """
    difference = (ref_logps - logps).clamp(max=MAX_LOG_RATIO)
    # exp(d) - 1 loses all digits in float32 once |d| < 1e-4, where a fresh policy lives.
    return torch.expm1(difference) - difference


def approx_kl(logps: Tensor, ref_logps: Tensor, estimator: KLEstimator = "k3") -> Tensor:
    """Estimate the KL per token by the named estimator.

    Args:
        logps: Log-probabilities under the policy, any shape, nats.
        ref_logps: The same under the reference.
        estimator: ``"k1"``, ``"k2"`` or ``"k3"``.

    Returns:
        One value per token, nats.

    Raises:
        UserError: If there is no such estimator.
    """
    if estimator == "k1":
        return k1(logps, ref_logps)
    if estimator == "k2":
        return k2(logps, ref_logps)
    if estimator == "k3":
        return k3(logps, ref_logps)
    raise UserError(f"approx_kl.estimator must be 'k1', 'k2' or 'k3', got {estimator!r}")


def sequence_kl(
    logps: Tensor, ref_logps: Tensor, mask: Tensor, estimator: KLEstimator = "k1"
) -> Tensor:
    """Estimate the KL of whole completions, to be subtracted from their rewards.

    sum_t k(t)

    Args:
        logps: Log-probabilities under the policy that sampled, ``(B, T)``, nats.
        ref_logps: The same under the reference.
        mask: Tokens to count, ``(B, T)``.
        estimator: ``"k1"``, ``"k2"`` or ``"k3"``.

    Returns:
        One value per completion, ``(B,)``, nats.

    Raises:
        UserError: If there is no such estimator.

    Source: Ouyang et al. 2022, arXiv:2203.02155, eq. 2.
    """
    return masked_sum(approx_kl(logps, ref_logps, estimator), mask, dim=-1)
