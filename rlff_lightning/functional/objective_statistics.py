"""What to watch of a policy update, as shares and means over tokens."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlff_lightning.functional.masked import masked_mean
from rlff_lightning.functional.policy_objective import ObjectiveTerms


class ObjectiveStatistics(NamedTuple):
    """Scalars of one micro-batch; ``None`` where the objective had nothing to measure."""

    clip_low_share: Tensor
    """Tokens at the lower clip bound, in ``[0, 1]``."""
    clip_high_share: Tensor
    """Tokens at the upper clip bound, in ``[0, 1]``."""
    ratio_mean: Tensor
    """Mean of policy now over policy at rollout."""
    ratio_max: Tensor
    """Largest such ratio."""
    mismatch_mean: Tensor | None
    """Mean of trainer's over engine's probability; 1 without mismatch."""
    mismatch_max: Tensor | None
    """Largest such ratio, uncut."""
    capped_share: Tensor | None
    """Tokens whose mismatch weight was cut, in ``[0, 1]``."""
    dropped_share: Tensor | None
    """Sequences left out for their mismatch, in ``[0, 1]``."""


def objective_statistics(terms: ObjectiveTerms, loss_mask: Tensor) -> ObjectiveStatistics:
    """Summarise the terms of a micro-batch.

    Args:
        terms: What the objective returned.
        loss_mask: Tokens that train, ``(B, T)``.

    Returns:
        Scalars with the terms' gradients; the caller detaches.
    """
    surrogate, mismatch = terms.surrogate, terms.mismatch
    dtype = surrogate.ratios.dtype
    return ObjectiveStatistics(
        clip_low_share=masked_mean(surrogate.is_clipped_low.to(dtype), loss_mask),
        clip_high_share=masked_mean(surrogate.is_clipped_high.to(dtype), loss_mask),
        ratio_mean=masked_mean(surrogate.ratios, loss_mask),
        ratio_max=_masked_max(surrogate.ratios, loss_mask),
        mismatch_mean=None if mismatch is None else masked_mean(mismatch.ratios, loss_mask),
        mismatch_max=None if mismatch is None else _masked_max(mismatch.ratios, loss_mask),
        capped_share=(
            None if mismatch is None else masked_mean(mismatch.is_capped.to(dtype), loss_mask)
        ),
        dropped_share=None if mismatch is None else mismatch.is_dropped.to(dtype).mean(),
    )


def _masked_max(ratios: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, ratios, 0.0).amax()
