"""How well rewards order the candidates of one context, which is all that GRPO uses of them."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlff_lightning.errors import UserError


class Pairs(NamedTuple):
    """Pairs of candidates of one context whose labels differ; all ``(P,)``."""

    better: Tensor
    """Index of the candidate with the higher label."""
    worse: Tensor
    """Index of the other."""


def ranked_pairs(labels: Tensor, context_ids: Tensor) -> Pairs:
    """List every pair of one context whose labels differ.

    Args:
        labels: One per candidate, ``(N,)``.
        context_ids: The context it belongs to, ``(N,)``, int; in any order.

    Returns:
        Indices into the candidates, ``(P,)``.

    Raises:
        UserError: If the shapes differ.
    """
    if labels.shape != context_ids.shape or labels.dim() != 1:
        raise UserError(
            f"labels and context_ids must both be (N,), got {tuple(labels.shape)} and "
            f"{tuple(context_ids.shape)}"
        )
    order = context_ids.argsort(stable=True)
    _, members = context_ids.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    sizes = torch.bincount(members)
    starts = sizes.cumsum(0) - sizes
    # One step per distance between siblings, each over all contexts: no (N, N) matrix.
    rank = torch.arange(len(order), device=order.device) - starts.repeat_interleave(sizes)
    firsts, seconds = [order[:0]], [order[:0]]
    for distance in range(1, int(sizes.max()) if len(sizes) else 0):
        is_pair = rank[distance:] >= distance
        firsts.append(order[:-distance][is_pair])
        seconds.append(order[distance:][is_pair])
    first, second = torch.cat(firsts), torch.cat(seconds)
    is_better, is_worse = labels[first] > labels[second], labels[first] < labels[second]
    return Pairs(
        better=torch.cat([first[is_better], second[is_worse]]),
        worse=torch.cat([second[is_better], first[is_worse]]),
    )


def pairwise_accuracy(scores: Tensor, labels: Tensor, context_ids: Tensor) -> Tensor:
    """Measure how often the better of two candidates of one context gets the higher score.

    mean over pairs of [s_better > s_worse] + [s_better = s_worse] / 2

    Args:
        scores: Predicted rewards, ``(N,)``.
        labels: True rewards, ``(N,)``; pairs of equal labels are left out.
        context_ids: The context of each, ``(N,)``, int; in any order.

    Returns:
        A scalar in ``[0, 1]``, 0.5 is chance; nan without a pair.

    Raises:
        UserError: If the shapes differ.
    """
    successes, _ = pair_successes(scores, labels, context_ids)
    return successes.mean()


def pairwise_ceiling(labels: Tensor, standard_errors: Tensor, context_ids: Tensor) -> Tensor:
    """Estimate the accuracy of scores that know the truth, given how noisy the labels are.

    mean over pairs of Phi(|y_i - y_j| / sqrt(se_i^2 + se_j^2))

    That is the probability that a pair's labels are in the true order, for normal errors and a
    flat prior. The observed difference overstates the true one a little, so this errs upwards.

    Args:
        labels: Measured rewards, ``(N,)``; pairs of equal labels are left out.
        standard_errors: Of the labels, ``(N,)``, at least 0.
        context_ids: The context of each, ``(N,)``, int; in any order.

    Returns:
        A scalar in ``[0.5, 1]``, 1 if nothing is uncertain; nan without a pair.

    Raises:
        UserError: If the shapes differ.
    """
    better, worse = ranked_pairs(labels, context_ids)
    noise = torch.hypot(standard_errors[better], standard_errors[worse])
    standardised = (labels[better] - labels[worse]) / noise
    return torch.erfc(-standardised / 2**0.5).mean() / 2


def pair_successes(scores: Tensor, labels: Tensor, context_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Tell for each pair of one context whether its better candidate is scored higher.

    Args:
        scores: Predicted rewards, ``(N,)``.
        labels: True rewards, ``(N,)``; pairs of equal labels are left out.
        context_ids: The context of each, ``(N,)``, int; in any order.

    Returns:
        1, 0, or 0.5 for equal scores, ``(P,)``; and the index of the pair's better candidate.

    Raises:
        UserError: If the shapes differ.
    """
    better, worse = ranked_pairs(labels, context_ids)
    return ((scores[better] - scores[worse]).sign() + 1) / 2, better
