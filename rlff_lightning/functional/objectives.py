"""Policy objectives as one key of a config: GRPO, Dr. GRPO, DAPO, GSPO, CISPO.

Each is a composition of ratios, a surrogate and an aggregation; what they share is in
``policy_objective``. With Dr. GRPO go advantages of ``scale="none"``.
"""

from dataclasses import dataclass

from torch import Tensor

from rlff_lightning.functional.aggregation import Aggregation
from rlff_lightning.functional.policy_objective import PolicyObjective
from rlff_lightning.functional.ratios import sequence_ratios, token_ratios
from rlff_lightning.functional.surrogates import (
    Surrogate,
    clipped_surrogate,
    clipped_weight_surrogate,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GRPO(PolicyObjective):
    """Group relative policy optimization: PPO's clipped ratio, the mean of sequence means.

    L = mean_i 1/|y_i| sum_t -min(r_it A_i, clip(r_it, 1 - clip_low, 1 + clip_high) A_i), with
    r_it = pi(y_it) / pi_old(y_it); to it ``kl_coef`` adds the KL

    Source: Shao et al. 2024, arXiv:2402.03300, eq. 3.

    Args:
        clip_low: A bad token's ratio stops mattering below 1 - clip_low.
        clip_high: A good token's ratio stops mattering above 1 + clip_high.
        max_ratio: Bound for bad tokens that became likely, at least 1 + clip_high; ``null``: none.
    """

    aggregation: Aggregation = "sequence"
    clip_low: float = 0.2
    clip_high: float = 0.2
    max_ratio: float | None = None

    def surrogate(
        self, logps: Tensor, old_logps: Tensor, advantages: Tensor, loss_mask: Tensor
    ) -> Surrogate:
        ratios = token_ratios(logps, old_logps, loss_mask)
        return clipped_surrogate(
            ratios,
            advantages,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            max_ratio=self.max_ratio,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DrGRPO(PolicyObjective):
    """GRPO without its two biases: a constant length divides, and no std.

    L = mean_i 1/max_tokens sum_t -min(r_it A_i, clip(r_it, 1 - clip_low, 1 + clip_high) A_i), with
    r_it = pi(y_it) / pi_old(y_it) and A_i = R_i - mean(R) of ``advantage_scale: none``

    Source: Liu et al. 2025, arXiv:2503.20783, sec. 3.2.

    Args:
        clip_low: A bad token's ratio stops mattering below 1 - clip_low.
        clip_high: A good token's ratio stops mattering above 1 + clip_high.
        max_ratio: Bound for bad tokens that became likely, at least 1 + clip_high; ``null``: none.
    """

    aggregation: Aggregation = "constant"
    clip_low: float = 0.2
    clip_high: float = 0.2
    max_ratio: float | None = None

    @property
    def is_without_std(self) -> bool:
        return True

    def surrogate(
        self, logps: Tensor, old_logps: Tensor, advantages: Tensor, loss_mask: Tensor
    ) -> Surrogate:
        ratios = token_ratios(logps, old_logps, loss_mask)
        return clipped_surrogate(
            ratios,
            advantages,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            max_ratio=self.max_ratio,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DAPO(PolicyObjective):
    """GRPO with the upper bound raised and every token counting the same.

    L = 1/(sum_i |y_i|) sum_i sum_t -min(r_it A_i, clip(r_it, 1 - clip_low, 1 + clip_high) A_i),
    with r_it = pi(y_it) / pi_old(y_it)

    Source: Yu et al. 2025, arXiv:2503.14476, eq. 8 to 12.

    Args:
        clip_low: A bad token's ratio stops mattering below 1 - clip_low.
        clip_high: A good token's ratio stops mattering above 1 + clip_high.
        max_ratio: Bound for bad tokens that became likely, at least 1 + clip_high; ``null``: none.
    """

    aggregation: Aggregation = "token"
    clip_low: float = 0.2
    clip_high: float = 0.28
    max_ratio: float | None = None

    def surrogate(
        self, logps: Tensor, old_logps: Tensor, advantages: Tensor, loss_mask: Tensor
    ) -> Surrogate:
        ratios = token_ratios(logps, old_logps, loss_mask)
        return clipped_surrogate(
            ratios,
            advantages,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            max_ratio=self.max_ratio,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GSPO(PolicyObjective):
    """Group sequence policy optimization: one ratio per sequence, clipped tightly.

    L = mean_i -min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i), with
    s_i = (pi(y_i) / pi_old(y_i)) ^ (1 / |y_i|)

    Source: Zheng et al. 2025, arXiv:2507.18071, eq. 5 to 7; bounds from sec. 5.1.

    Args:
        clip_low: A bad sequence's ratio stops mattering below 1 - clip_low.
        clip_high: A good sequence's ratio stops mattering above 1 + clip_high.
        max_ratio: Bound for bad sequences that became likely, at least 1 + clip_high; ``null``:
            none.
    """

    aggregation: Aggregation = "sequence"
    clip_low: float = 3e-4
    clip_high: float = 4e-4
    max_ratio: float | None = None

    def surrogate(
        self, logps: Tensor, old_logps: Tensor, advantages: Tensor, loss_mask: Tensor
    ) -> Surrogate:
        ratios = sequence_ratios(logps, old_logps, loss_mask)
        return clipped_surrogate(
            ratios,
            advantages,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            max_ratio=self.max_ratio,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CISPO(PolicyObjective):
    """Clipped importance sampling: no token loses its gradient, its weight is bounded instead.

    L = 1/(sum_i |y_i|) sum_i sum_t -sg(clip(r_it, 1 - clip_low, 1 + clip_high)) A_i log pi(y_it),
    with r_it = pi(y_it) / pi_old(y_it), and sg stops the gradient

    Source: MiniMax 2025, arXiv:2506.13585, eq. 4 and 5.

    Args:
        clip_low: The weight is at least 1 - clip_low; ``null`` leaves small weights alone, as the
            paper does in effect.
        clip_high: The weight is at most 1 + clip_high.
    """

    aggregation: Aggregation = "token"
    clip_low: float | None = None
    clip_high: float = 4.0

    def surrogate(
        self, logps: Tensor, old_logps: Tensor, advantages: Tensor, loss_mask: Tensor
    ) -> Surrogate:
        ratios = token_ratios(logps, old_logps, loss_mask)
        return clipped_weight_surrogate(
            ratios, advantages, logps, clip_low=self.clip_low, clip_high=self.clip_high
        )
