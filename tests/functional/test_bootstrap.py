import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlff_lightning.errors import UserError
from rlff_lightning.functional.bootstrap import cluster_bootstrap
from rlff_lightning.functional.intervals import mean_interval


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_two_clusters_give_the_three_means_that_can_be_drawn() -> None:
    # Clusters {0, 0} and {1}: drawn are (0, 0), (0, 0, 1) or (1, 1), with means 0, 1/3 and 1,
    # with probabilities 1/4, 1/2 and 1/4; so 80 % around the middle reaches from 0 to 1.
    values = torch.tensor([0.0, 0.0, 1.0])
    seen = set()

    def mean(rows: Tensor) -> float:
        seen.add(round(values[rows].mean().item(), 4))
        return values[rows].mean().item()

    clusters = torch.tensor([7, 7, 9])
    assert cluster_bootstrap(mean, clusters, generator=generator(), confidence=0.8) == (0.0, 1.0)
    assert seen == {0.0, 0.3333, 1.0}


def test_clusters_of_one_reach_as_far_as_students_interval() -> None:
    values = torch.randn(200, generator=generator(1), dtype=torch.float64)
    found = cluster_bootstrap(
        lambda rows: values[rows].mean().item(),
        torch.arange(200),
        generator=generator(),
        num_resamples=4000,
    )
    wanted = mean_interval(values.tolist())
    assert found.low == pytest.approx(wanted.low, abs=0.01)
    assert found.high == pytest.approx(wanted.high, abs=0.01)


def test_repeating_every_row_of_a_cluster_makes_the_interval_no_narrower() -> None:
    values = torch.randn(30, generator=generator(2), dtype=torch.float64)
    once = cluster_bootstrap(
        lambda rows: values[rows].mean().item(), torch.arange(30), generator=generator()
    )
    copied, clusters = values.repeat_interleave(10), torch.arange(30).repeat_interleave(10)
    tenfold = cluster_bootstrap(
        lambda rows: copied[rows].mean().item(), clusters, generator=generator()
    )
    assert tuple(tenfold) == pytest.approx(tuple(once))


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.integers(0, 100))
def test_an_interval_of_a_mean_stays_among_the_values(values: list[float], seed: int) -> None:
    column = torch.tensor(values, dtype=torch.float64)
    low, high = cluster_bootstrap(
        lambda rows: column[rows].mean().item(),
        torch.arange(len(values)),
        generator=generator(seed),
        num_resamples=50,
    )
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_one_cluster_and_undefined_statistics_bound_nothing() -> None:
    alone = cluster_bootstrap(lambda rows: 1.0, torch.zeros(5), generator=generator())
    undefined = cluster_bootstrap(lambda rows: math.nan, torch.arange(5), generator=generator())
    assert alone == undefined == (-math.inf, math.inf)


def test_an_impossible_confidence_is_refused() -> None:
    with pytest.raises(UserError, match=r"cluster_bootstrap.confidence must be .*, got 1"):
        cluster_bootstrap(lambda rows: 0.0, torch.arange(3), generator=generator(), confidence=1)
