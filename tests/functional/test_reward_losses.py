import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlff_lightning.errors import UserError
from rlff_lightning.functional.reward_losses import (
    OutcomeClassification,
    PairwiseRanking,
    PositiveClassification,
    Regression,
)
from rlff_lightning.functional.reward_objective import RewardLabels, RewardLoss

LOSSES: list[tuple[RewardLoss, int]] = [
    (Regression(), 1),
    (Regression(error_scale=0.3), 1),
    (OutcomeClassification(), 4),
    (PositiveClassification(threshold=0.1), 1),
    (PairwiseRanking(margin=0.5), 1),
]


def labels(
    values: list[float], errors: list[float] | None = None, contexts: list[int] | None = None
) -> RewardLabels:
    """Labels of mean 0.5 and spread 2, without futures: targets are (y - 0.5) / 2."""
    return RewardLabels(
        values=torch.tensor(values, dtype=torch.float64),
        standard_errors=torch.tensor(errors or [0.0] * len(values), dtype=torch.float64),
        context_ids=torch.tensor(contexts or [7] * len(values)),
        turn_values=torch.zeros(len(values), 0, dtype=torch.float64),
        turn_mask=torch.zeros(len(values), 0, dtype=torch.bool),
        targets=(torch.tensor(values, dtype=torch.float64) - 0.5) / 2,
    )


def outputs(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_regression_squares_the_error_in_the_labels_spreads() -> None:
    # Labels 2.5 and -0.5 are 1 and -0.5 spreads from the mean: errors -1 and 0.5.
    found = Regression().sums(outputs(0.0, 0.0), labels([2.5, -0.5]))
    assert (found.loss.item(), found.size.item()) == (1.25, 2)


def test_a_label_as_uncertain_as_the_scale_counts_half() -> None:
    # Weights 1, 1/2 and 1/5; squared errors 1, 1, 1.
    found = Regression(error_scale=0.3).sums(
        outputs(0.0, 0.0, 0.0), labels([2.5, 2.5, 2.5], [0.0, 0.3, 0.6])
    )
    assert found.loss.item() == pytest.approx(1.7)
    assert found.size.item() == pytest.approx(1.7)


def test_outcomes_are_learned_by_cross_entropy_to_their_shares() -> None:
    # Label 0.25: a quarter same, three quarters better. Logits log 1, 2, 4, 1 of sum 8:
    # -(log(2/8) / 4 + 3 log(4/8) / 4) = (2/4 + 3/4) log 2.
    logits = torch.tensor([[1.0, 2.0, 4.0, 1.0]], dtype=torch.float64).log()
    found = OutcomeClassification().rows(logits, labels([0.25]))
    assert found.item() == pytest.approx(1.25 * math.log(2))


def test_the_best_outcome_logits_have_the_label_as_expected_value() -> None:
    logits = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = OutcomeClassification().sums(logits, labels([-0.2])).loss
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    value = logits.softmax(-1) @ torch.tensor([-1.0, -0.5, 0.5, 1.0], dtype=torch.float64)
    assert value.item() == pytest.approx(-0.2, abs=1e-3)


def test_a_positive_label_is_one_above_the_threshold_and_an_uncertain_one_partly() -> None:
    # logit log 3 says 3/4: -log(3/4) if positive, -log(1/4) if not, half of both on the line.
    # One standard error above the line: Phi(1) = 0.841345 positive.
    logit = math.log(3)
    found = PositiveClassification(threshold=0.1).rows(
        outputs(logit, logit, logit, logit), labels([0.2, 0.0, 0.1, 0.4], [0, 0, 0, 0.3])
    )
    yes, no = -math.log(0.75), -math.log(0.25)
    partly = 0.841345 * yes + 0.158655 * no
    assert found.tolist() == pytest.approx([yes, no, (yes + no) / 2, partly], abs=1e-6)


def test_a_pair_is_ranked_by_bradley_terry_beyond_its_margin() -> None:
    # Gap of the labels 1 = half a spread, margin 1 of it: the scores differ by 1, so 0.5 is left.
    # Two rows, one pair: the context's loss counts twice.
    loss = -math.log(1 / (1 + math.exp(-0.5)))
    found = PairwiseRanking(margin=1.0, anchor=0.0).sums(outputs(3.0, 2.0), labels([1.0, 0.0]))
    assert found.loss.item() == pytest.approx(2 * loss)
    assert found.size.item() == 2


def test_a_contexts_loss_is_the_mean_over_its_pairs_and_equal_labels_make_none() -> None:
    # Labels 1, 0, 0: two pairs, with gaps 2 and -1; context 8 has one reply, context 9 a tie.
    pairs = [-math.log(1 / (1 + math.exp(-gap))) for gap in (2.0, -1.0)]
    found = PairwiseRanking(anchor=0.0).sums(
        outputs(2.0, 5.0, 0.0, 3.0, 1.0, 4.0),
        labels([1.0, 0.3, 0.0, 0.0, 0.4, 0.4], contexts=[7, 8, 7, 7, 9, 9]),
    )
    assert found.loss.item() == pytest.approx(3 * sum(pairs) / 2)
    assert found.size.item() == 6


def test_only_the_anchor_sees_the_level_of_the_scores() -> None:
    data = labels([1.0, 0.0, 0.3])
    free, held = PairwiseRanking(anchor=0.0), PairwiseRanking(anchor=0.1)
    low, high = outputs(0.1, -0.2, 0.0), outputs(5.1, 4.8, 5.0)
    assert free.sums(low, data).loss.item() == pytest.approx(free.sums(high, data).loss.item())
    assert held.sums(low, data).loss < held.sums(high, data).loss


@pytest.mark.parametrize(("loss", "width"), LOSSES)
@given(data=st.data())
def test_parts_of_a_batch_add_up_to_its_sums(
    loss: RewardLoss, width: int, data: st.DataObject
) -> None:
    numbers = st.floats(-0.9, 0.9)
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    count = sum(sizes)
    contexts = [context for context, size in enumerate(sizes) for _ in range(size)]
    values = data.draw(st.lists(numbers, min_size=count, max_size=count))
    errors = data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    flat = data.draw(st.lists(numbers, min_size=count * width, max_size=count * width))
    predicted = torch.tensor(flat, dtype=torch.float64).view(count, width)

    def sums(rows: slice) -> Tensor:
        part = loss.sums(predicted[rows], labels(values[rows], errors[rows], contexts[rows]))
        return torch.stack([*part])

    cut = sizes[0]
    whole, parts = sums(slice(None)), sums(slice(cut)) + sums(slice(cut, None))
    torch.testing.assert_close(parts, whole)
    assert whole[0] >= 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Regression(error_scale=0.0), "error_scale must be above 0, got 0.0"),
        (lambda: OutcomeClassification(class_values=(1.0,)), "two or more, ascending"),
        (lambda: OutcomeClassification(class_values=(1.0, 0.5)), r"ascending, got \[1.0, 0.5\]"),
        (lambda: PairwiseRanking(margin=-1.0), "margin must be at least 0, got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message):
        make()
