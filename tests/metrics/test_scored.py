import torch

from rlff_lightning.metrics.scored import ScoredRows


def test_rows_come_in_order_and_those_that_filled_a_rank_count_once() -> None:
    metric = ScoredRows()
    metric.update(torch.tensor([4, 0]), torch.tensor([0.4, 0.0]))
    metric.update(torch.tensor([2, 4]), torch.tensor([0.2, 0.4]))
    found = metric.compute()
    assert found.places.tolist() == [0, 2, 4]
    torch.testing.assert_close(found.scores, torch.tensor([0.0, 0.2, 0.4]))


def test_no_rows_are_no_scores() -> None:
    found = ScoredRows().compute()
    assert len(found.places) == len(found.scores) == 0
