"""Sums and means over the counted entries of a tensor."""

import torch
from torch import Tensor


def masked_sum(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Add up the counted entries; a slice with none counted sums to 0.

    Args:
        values: Any shape; what is not counted may be inf or nan.
        mask: Bool of the same shape, ``True`` counts.
        dim: Dimension to reduce; all of them by default.

    Returns:
        ``values`` without ``dim``, or a scalar.
    """
    # `where`, not `values * mask`: a masked-out inf or nan must not survive as 0 * inf = nan.
    return torch.where(mask, values, 0.0).sum(dim)


def masked_mean(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Average the counted entries; a slice with none counted averages to 0.

    Args:
        values: Any shape; what is not counted may be inf or nan.
        mask: Bool of the same shape, ``True`` counts.
        dim: Dimension to reduce; all of them by default.

    Returns:
        ``values`` without ``dim``, or a scalar.
    """
    return masked_sum(values, mask, dim) / mask.sum(dim).clamp(min=1)
