"""How much better a completion is than its siblings, the other samples of the same prompt."""

from typing import Literal

import torch
from torch import Tensor

from rlff_lightning.errors import UserError

Scale = Literal["group", "batch", "none"]
"""What advantages are divided by: the group's std, the whole batch's, or nothing."""


def group_advantages(
    rewards: Tensor, group_size: int, *, scale: Scale = "group", eps: float = 1e-4
) -> Tensor:
    """Score each completion against its siblings.

    A_i = (r_i - mean(group)) / (std + eps), std over the rewards of the group or of the batch

    Args:
        rewards: One reward per completion, ``(B,)``, finite; siblings are adjacent.
        group_size: Completions per prompt, G; at least 2, divides B.
        scale: Divide by the unbiased std of the ``"group"`` (GRPO) or of the whole ``"batch"``
            passed in (gather it over ranks first), or by nothing: ``"none"`` (Dr. GRPO).
        eps: Keeps groups of nearly equal rewards from blowing up, in units of reward.

    Returns:
        One advantage per completion, ``(B,)``; each group sums to 0, and a group of equal rewards
        is exactly 0.

    Raises:
        UserError: If ``group_size`` does not fit or ``scale`` is none of the three.

    Source: Shao et al. 2024, arXiv:2402.03300, sec. 4.1.2; Liu et al. 2025, arXiv:2503.20783
    (no division); Liu et al. 2025, arXiv:2508.08221 (the std of the batch's rewards, around the
    group's mean).
    """
    groups = _groups(rewards, group_size)
    # From the first sibling, so that equal rewards differ by exactly 0, which a mean may not give.
    centred = groups - groups[:, :1]
    centred = centred - centred.mean(dim=1, keepdim=True)
    if scale == "group":
        centred = centred / (centred.std(dim=1, keepdim=True) + eps)
    elif scale == "batch":
        centred = centred / (rewards.std() + eps)
    elif scale != "none":
        raise UserError(f"group_advantages.scale must be 'group', 'batch' or 'none', got {scale!r}")
    return centred.flatten()


def flat_group_share(rewards: Tensor, group_size: int) -> Tensor:
    """Measure the share of groups without variance, which teach nothing.

    #{groups: max_i r_i = min_i r_i} / #groups

    Args:
        rewards: One reward per completion, ``(B,)``; siblings are adjacent.
        group_size: Completions per prompt, G.

    Returns:
        A scalar in ``[0, 1]``.

    Raises:
        UserError: If ``group_size`` does not fit.

    Source: Yu et al. 2025, arXiv:2503.14476, sec. 3.2 (why such groups waste a batch).
    """
    groups = _groups(rewards, group_size)
    is_flat = groups.amax(dim=1) == groups.amin(dim=1)
    return is_flat.to(torch.get_default_dtype()).mean()


def _groups(rewards: Tensor, group_size: int) -> Tensor:
    """View ``(B,)`` as ``(B / G, G)``."""
    if rewards.dim() != 1 or group_size < 2 or len(rewards) == 0 or len(rewards) % group_size:
        raise UserError(
            "group_size must be at least 2 and divide the number of rewards, "
            f"got {group_size} for rewards of shape {tuple(rewards.shape)}"
        )
    return rewards.view(-1, group_size)
