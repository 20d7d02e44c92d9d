"""A value as shares of a critic's outcomes."""

import torch
from torch import Tensor

from rlff_lightning.errors import UserError


def two_hot(values: Tensor, class_values: Tensor) -> Tensor:
    """Split each value between the two outcomes next to it, so that it is their expected value.

    q_j = (v_(j+1) - x) / (v_(j+1) - v_j),  q_(j+1) = 1 - q_j,  for v_j <= x <= v_(j+1)

    Args:
        values: x, of any shape, between the first and the last class value.
        class_values: v, ascending, ``(C,)``.

    Returns:
        Shares, one more dimension of C; each row sums to 1.

    Raises:
        UserError: If a value is outside.

    Source: Bellemare et al. 2017, arXiv:1707.06887, eq. 7 (projection onto a support).
    """
    low, high = class_values[0], class_values[-1]
    is_outside = (values < low - 1e-6) | (values > high + 1e-6)
    if is_outside.any():
        raise UserError(
            f"labels must be within the outcomes' values [{low.item():g}, {high.item():g}], got "
            f"{values[is_outside][0].item():g}; give class_values that reach so far"
        )
    inside = values.clamp(low, high)
    upper = torch.searchsorted(class_values, inside.contiguous()).clamp(1, len(class_values) - 1)
    below, above = class_values[upper - 1], class_values[upper]
    share = ((inside - below) / (above - below)).unsqueeze(-1)
    shares = torch.zeros(*values.shape, len(class_values), device=values.device).to(values)
    shares = shares.scatter(-1, (upper - 1).unsqueeze(-1), 1 - share)
    return shares.scatter(-1, upper.unsqueeze(-1), share)


def outcome_shares(
    labels: Tensor, turn_values: Tensor, turn_mask: Tensor, class_values: Tensor
) -> Tensor:
    """Give each label's distribution over a critic's outcomes, with the label as its mean.

    q = mean over turns of two_hot(turn value), where its expected value is the label: where turns
    count alike. With a discount, a bonus or no futures that fails, and q = two_hot(label).

    Args:
        labels: ``(B,)``.
        turn_values: Critic values of every turn of every future, ``(B, T)``.
        turn_mask: Turns that took place, ``(B, T)``.
        class_values: Value of each outcome, ascending, ``(C,)``.

    Returns:
        ``(B, C)``; rows sum to 1, and ``q @ class_values`` is the label.

    Raises:
        UserError: If a value is outside the outcomes'.
    """
    # A turn that did not take place is no value to check.
    turns = two_hot(torch.where(turn_mask, turn_values, class_values[0]), class_values)
    counted = torch.where(turn_mask.unsqueeze(-1), turns, 0.0)
    shares = counted.sum(1) / turn_mask.sum(1, keepdim=True).clamp(min=1)
    is_exact = turn_mask.any(1) & ((shares @ class_values - labels).abs() < 1e-5)
    return torch.where(is_exact.unsqueeze(-1), shares, two_hot(labels, class_values))
