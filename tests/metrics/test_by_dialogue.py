import math

import pytest
import torch

from rlff_lightning.metrics.by_dialogue import RankCorrelation, mean_by_dialogue


def test_the_rank_correlation_is_spearmans_over_all_batches() -> None:
    # Ranks 1 2 3 4 against 1 3 2 4: d = 0 1 -1 0, so 1 - 6 * 2 / (4 * 15) = 0.8.
    metric = RankCorrelation()
    metric.update(torch.tensor([0.1, 0.2]), torch.tensor([-1.0, 0.5]), torch.tensor([1, 1]))
    metric.update(torch.tensor([0.3, 9.0]), torch.tensor([0.0, 0.6]), torch.tensor([2, 2]))
    found = metric.compute()
    assert found.value == pytest.approx(0.8)
    assert found.low <= 0.8 <= found.high
    assert found.named("rho") == {"rho": found.value, "rho_low": found.low, "rho_high": found.high}


def test_scores_that_do_not_vary_have_no_rank_correlation() -> None:
    metric = RankCorrelation()
    metric.update(torch.full((4,), 0.3), torch.tensor([0.0, 1.0, 0.5, 0.2]), torch.arange(4))
    assert math.isnan(metric.compute().value)


def test_a_mean_is_bounded_by_dialogues_not_by_turns() -> None:
    values = torch.tensor([0.0, 1.0]).repeat_interleave(50)
    # Two dialogues of fifty equal turns: nothing lies between one dialogue and the other.
    found = mean_by_dialogue(values, torch.tensor([1, 2]).repeat_interleave(50))
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
