"""Goal completion: does a conversation reach its goal, and how fast.

An episode is a conversation of at most ``max_turns`` supporter turns that ends when the critic
sees the goal reached. What a number means hangs on the critic's rule: name it beside the number.
"""

import torch
from torch import Tensor

from rlff_lightning.errors import UserError


def success_rate(is_success: Tensor) -> Tensor:
    """Measure the share of episodes that reached the goal.

    SR = num_successes / num_episodes

    Args:
        is_success: Bool per episode, ``(B,)``.

    Returns:
        A scalar in ``[0, 1]``; 0 without episodes.

    Source: Deng et al. 2024, arXiv:2311.00262, sec. 4.1.
    """
    return is_success.sum() / max(len(is_success), 1)


def turns_to_goal(is_success: Tensor, num_turns: Tensor, *, max_turns: int) -> Tensor:
    """Count the supporter turns an episode took, where a failure took them all.

    Args:
        is_success: Bool per episode, ``(B,)``.
        num_turns: Supporter turns of each episode, ``(B,)``, int.
        max_turns: Most turns an episode may take.

    Returns:
        Turns per episode, ``(B,)``, in ``[1, max_turns]``.

    Raises:
        UserError: If the shapes differ, or a success took less than one turn or more than the cap.
    """
    if is_success.shape != num_turns.shape or is_success.dim() != 1:
        raise UserError(
            f"is_success and num_turns must both be (B,), got {tuple(is_success.shape)} and "
            f"{tuple(num_turns.shape)}"
        )
    if bool((is_success & ((num_turns < 1) | (num_turns > max_turns))).any()):
        raise UserError(
            f"num_turns of a success must be in [1, max_turns={max_turns}], "
            f"got {num_turns[is_success].tolist()}"
        )
    return torch.where(is_success, num_turns, max_turns)


def average_turns(is_success: Tensor, num_turns: Tensor, *, max_turns: int) -> Tensor:
    """Average the turns to the goal; a failure counts as the cap.

    Args:
        is_success: Bool per episode, ``(B,)``.
        num_turns: Supporter turns of each episode, ``(B,)``, int.
        max_turns: Most turns an episode may take.

    Returns:
        A scalar in ``[1, max_turns]``; 0 without episodes.

    Raises:
        UserError: If shapes or turns do not fit.

    Source: Deng et al. 2024, arXiv:2311.00262, sec. 4.1.
    """
    turns = turns_to_goal(is_success, num_turns, max_turns=max_turns)
    return turns.sum() / max(len(turns), 1)


def successes_at_turn(is_success: Tensor, num_turns: Tensor, *, max_turns: int) -> Tensor:
    """Count the episodes that reached the goal within each number of turns.

    Args:
        is_success: Bool per episode, ``(B,)``.
        num_turns: Supporter turns of each episode, ``(B,)``, int.
        max_turns: Most turns an episode may take.

    Returns:
        Counts, ``(max_turns,)``, int64, never falling; entry ``t - 1`` is for ``t`` turns.

    Raises:
        UserError: If shapes or turns do not fit.
    """
    turns = turns_to_goal(is_success, num_turns, max_turns=max_turns)[is_success]
    return torch.bincount(turns - 1, minlength=max_turns).cumsum(0)


def success_rate_at_turn(is_success: Tensor, num_turns: Tensor, *, max_turns: int) -> Tensor:
    """Measure the share of all episodes that reached the goal within each number of turns.

    SR@t = num_successes_within_t / num_episodes

    Args:
        is_success: Bool per episode, ``(B,)``.
        num_turns: Supporter turns of each episode, ``(B,)``, int.
        max_turns: Most turns an episode may take.

    Returns:
        A curve in ``[0, 1]``, ``(max_turns,)``, never falling; its end is the success rate.

    Raises:
        UserError: If shapes or turns do not fit.

    Source: Deng et al. 2024, arXiv:2311.00262, fig. 3.
    """
    counts = successes_at_turn(is_success, num_turns, max_turns=max_turns)
    return counts / max(len(is_success), 1)


def carry_forward(values: Tensor, value_mask: Tensor) -> Tensor:
    """Let every episode keep its last value through the turns that it did not need.

    A mean over the episodes that still go on loses the solved ones and sinks by that alone; a mean
    over these values does not.

    Args:
        values: Critic's value of each turn, ``(B, T)``.
        value_mask: Turns that took place, ``(B, T)``; ``True`` from the first turn on, then
            ``False``.

    Returns:
        Values, ``(B, T)``; 0 for an episode without a turn.
    """
    last = (value_mask.sum(1, keepdim=True) - 1).clamp(min=0)
    turns = torch.arange(values.shape[1], device=values.device)
    known = torch.where(value_mask, values, 0.0)
    return known.gather(1, torch.minimum(turns.expand_as(known), last))
