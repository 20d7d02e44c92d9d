"""Confidence intervals of any statistic whose observations come in clusters, such as dialogues."""

from collections.abc import Callable

import torch
from torch import Tensor

from rlff_lightning.errors import UserError
from rlff_lightning.functional.intervals import Interval


def cluster_bootstrap(
    statistic: Callable[[Tensor], float],
    clusters: Tensor,
    *,
    generator: torch.Generator,
    confidence: float = 0.95,
    num_resamples: int = 500,
) -> Interval:
    """Bound a statistic by its percentiles over resampled clusters.

    low, high = quantiles (1 -+ confidence) / 2 of statistic(rows of C clusters drawn from C)

    Turns of one dialogue resemble each other: resampling turns would make the interval too narrow.

    Args:
        statistic: Value of a sample, given the indices of its rows, ``(M,)``, some repeated.
        clusters: Cluster of each row, ``(N,)``, int.
        generator: Draws the resamples.
        confidence: Probability that the interval covers the truth, in ``(0, 1)``.
        num_resamples: Resamples; those whose statistic is nan are left out.

    Returns:
        The interval; the whole real line for fewer than two clusters or without a finite value.

    Raises:
        UserError: If the confidence is impossible.

    Source: Efron 1979, Ann. Statist. 7(1); Davison & Hinkley 1997, sec. 3.8 (clusters).
    """
    if not 0 < confidence < 1:
        raise UserError(f"cluster_bootstrap.confidence must be between 0 and 1, got {confidence!r}")
    members = [torch.nonzero(clusters == cluster)[:, 0] for cluster in torch.unique(clusters)]
    if len(members) < 2:
        return Interval(-torch.inf, torch.inf)
    drawn = torch.randint(len(members), (num_resamples, len(members)), generator=generator)
    values = torch.tensor(
        [statistic(torch.cat([members[index] for index in row])) for row in drawn.tolist()],
        dtype=torch.float64,
    )
    values = values[values.isfinite()]
    if not len(values):
        return Interval(-torch.inf, torch.inf)
    tail = (1 - confidence) / 2
    low, high = values.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(low, high)
