"""Ensembles of reward heads: what each learns from, and how far they may be trusted together."""

from typing import Literal

import torch
from torch import Tensor

from rlff_lightning.errors import UserError

Pessimism = float | Literal["min"]
"""k in mean - k std over the members, or the least of them."""

SHARE = 0.632
"""Share of distinct contexts in a bootstrap sample, 1 - 1/e."""


def member_draws(context_ids: Tensor, num_members: int) -> Tensor:
    """Say which contexts each member of an ensemble learns from: about 63 % of them.

    A context is drawn or not by a hash of its number and the member's, with all its replies and in
    every epoch: members that saw the same data would agree where none of them knows.

    Args:
        context_ids: The same number for replies to one context, ``(B,)``, int64.
        num_members: Members, M.

    Returns:
        ``True`` where the member learns from the reply, ``(B, M)``.

    Source: Osband et al. 2016, arXiv:1602.04621 (bootstrapped heads on one trunk).
    """
    members = torch.arange(1, num_members + 1, device=context_ids.device)
    # Steele et al. 2014, SplitMix: int64 wraps around, and shifts keep the sign, hence the mask.
    mixed = context_ids[:, None] + members * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return ((mixed >> 31) & 0xFFFFF) < SHARE * 0x100000


def pessimistic(values: Tensor, pessimism: Pessimism) -> Tensor:
    """Take what an ensemble agrees on: mean - k std, or the least.

    Args:
        values: What each member predicts, ``(B, M)``, two members or more.
        pessimism: k, at least 0, of the unbiased standard deviation; or ``min``.

    Returns:
        ``(B,)``, at most the mean.

    Raises:
        UserError: If ``pessimism`` is below 0.

    Source: Coste et al. 2024, arXiv:2310.02743, sec. 3.2 (worst-case optimisation; their
        uncertainty weighting takes the variance).

    Example:
        >>> pessimistic(torch.tensor([[1.0, 3.0, 2.0]]), 1.0)
        tensor([1.])
    """
    if pessimism == "min":
        return values.min(dim=1).values
    if pessimism < 0:
        raise UserError(f"pessimism must be at least 0, or 'min', got {pessimism!r}")
    return values.mean(dim=1) - pessimism * values.std(dim=1)
