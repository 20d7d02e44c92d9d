import pytest
import torch

from rlff_lightning.models.pooling import Pooling, pool, positions_of

# Rows of one feature; the second is padded on both sides, with states that must not be read.
HIDDEN = torch.tensor([[1.0, 2.0, 6.0, 9.0], [50.0, 4.0, 8.0, torch.inf]])[..., None]
MASK = torch.tensor([[True, True, True, True], [False, True, True, False]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("last", [9.0, 8.0]),
        ("cls", [1.0, 4.0]),
        ("mean", [4.5, 6.0]),  # (1 + 2 + 6 + 9) / 4 and (4 + 8) / 2
    ],
)
def test_only_attended_states_are_read(pooling: Pooling, expected: list[float]):
    assert pool(HIDDEN, MASK, pooling)[:, 0].tolist() == expected


def test_a_pooled_state_is_float32_whatever_the_trunk_computes_in():
    assert pool(HIDDEN.bfloat16(), MASK, "mean").dtype == torch.float32


def test_positions_start_at_the_first_attended_token():
    assert positions_of(MASK).tolist() == [[0, 1, 2, 3], [0, 0, 1, 1]]


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="max"):
        pool(HIDDEN, MASK, "max")
