import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.errors import UserError
from rlff_lightning.functional.ranking import pairwise_accuracy, pairwise_ceiling, ranked_pairs

candidates = st.lists(
    st.tuples(st.integers(0, 3), st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=14
)


def test_accuracy_counts_pairs_of_one_context_only() -> None:
    # Context 0: labels 1 < 2 < 3, scores 1, 3, 2: pairs right, right, wrong. Context 1: right.
    scores = torch.tensor([1.0, 9.0, 3.0, 2.0, 8.0])
    labels = torch.tensor([1.0, 5.0, 2.0, 3.0, 4.0])
    context_ids = torch.tensor([0, 1, 0, 0, 1])
    assert pairwise_accuracy(scores, labels, context_ids).item() == pytest.approx(3 / 4)


def test_equal_scores_are_worth_half_and_equal_labels_nothing() -> None:
    # Pairs (0, 1): equal scores, 1/2. (0, 2): right. (1, 2): equal labels, left out.
    accuracy = pairwise_accuracy(
        torch.tensor([1.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 1.0]), torch.zeros(3).long()
    )
    assert accuracy.item() == pytest.approx(3 / 4)


@given(candidates)
def test_pairs_are_all_pairs_of_equal_context_and_different_label(
    rows: list[tuple[int, int, int]],
) -> None:
    context_ids, _, labels = (torch.tensor(column) for column in zip(*rows, strict=True))
    better, worse = ranked_pairs(labels, context_ids)
    expected = {
        (i, j)
        for i, j in itertools.permutations(range(len(rows)), 2)
        if rows[i][0] == rows[j][0] and rows[i][2] > rows[j][2]
    }
    found = list(zip(better.tolist(), worse.tolist(), strict=True))
    assert len(found) == len(expected)
    assert set(found) == expected


def test_ceiling_is_the_probability_that_a_difference_of_one_sigma_is_real() -> None:
    # se = (0.6, 0.8), so sigma = 1, difference 1: Phi(1) = 0.841345.
    ceiling = pairwise_ceiling(
        torch.tensor([0.0, 1.0]), torch.tensor([0.6, 0.8]), torch.tensor([4, 4])
    )
    assert ceiling.item() == pytest.approx(0.841345, abs=1e-6)


def test_ceiling_of_exact_labels_is_one() -> None:
    labels, context_ids = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0, 0, 0])
    assert pairwise_ceiling(labels, torch.zeros(3), context_ids).item() == 1.0


def test_scores_that_know_the_truth_do_not_beat_the_ceiling() -> None:
    # Truth uniform on [-50, 50], label errors of 1 on contexts of 2: the prior is nearly flat.
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(40_000, generator=generator, dtype=torch.float64) * 100 - 50
    truth[1::2] = truth[::2] + torch.randn(20_000, generator=generator).double() * 4
    labels = truth + torch.randn(40_000, generator=generator, dtype=torch.float64)
    context_ids = torch.arange(20_000).repeat_interleave(2)
    accuracy = pairwise_accuracy(truth, labels, context_ids).item()
    ceiling = pairwise_ceiling(labels, torch.ones_like(labels), context_ids).item()
    assert accuracy < ceiling + 0.005
    assert ceiling == pytest.approx(accuracy, abs=0.03)


def test_without_a_pair_there_is_no_accuracy() -> None:
    assert pairwise_accuracy(torch.ones(2), torch.ones(2), torch.tensor([0, 1])).isnan()


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(UserError, match=r"must both be \(N,\)"):
        ranked_pairs(torch.ones(2), torch.ones(3))
