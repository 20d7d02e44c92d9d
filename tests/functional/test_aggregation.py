import pytest
import torch

from rlff_lightning.errors import UserError
from rlff_lightning.functional.aggregation import Aggregation, aggregate, window_size

# Two sequences: 3 tokens of value 1, and 1 token of value 5.
VALUES = torch.tensor([[1.0, 1.0, 1.0], [5.0, 77.0, float("nan")]])
MASK = torch.tensor([[True, True, True], [True, False, False]])


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token", 2.0),  # (3 * 1 + 5) / 4 tokens
        ("sequence", 3.0),  # (mean 1 + mean 5) / 2 sequences
        ("constant", 0.4),  # (3 * 1 + 5) / (2 sequences * 10 tokens)
    ],
)
def test_aggregations_of_a_long_and_a_short_sequence(
    aggregation: Aggregation, expected: float
) -> None:
    size = window_size(MASK, aggregation, max_tokens=10)
    assert aggregate(VALUES, MASK, aggregation, size).item() == pytest.approx(expected)


def test_a_window_of_two_micro_batches_adds_up_to_the_whole() -> None:
    for aggregation in ("token", "sequence", "constant"):
        rows = [slice(0, 1), slice(1, 2)]
        size = sum(window_size(MASK[row], aggregation, max_tokens=10) for row in rows)
        parts = [aggregate(VALUES[row], MASK[row], aggregation, size) for row in rows]
        whole = {"token": 2.0, "sequence": 3.0, "constant": 0.4}[aggregation]
        assert sum(parts).item() == pytest.approx(whole)


def test_nothing_to_train_on_is_zero() -> None:
    assert aggregate(VALUES, MASK & False, "token", 0) == 0.0


def test_a_constant_length_must_be_given() -> None:
    with pytest.raises(UserError, match="max_tokens=None"):
        window_size(MASK, "constant")


def test_an_unknown_aggregation_is_refused() -> None:
    with pytest.raises(UserError, match="'token', 'sequence', or 'constant'"):
        window_size(MASK, "mean")  # type: ignore[arg-type]
