import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.functional.schedules import warmup_cosine


def test_the_rate_rises_linearly_then_falls_along_half_a_cosine() -> None:
    # 10 steps, 4 of them warm-up: 1/4, 2/4, 3/4, 1, then (1 + cos(pi * k / 6)) / 2 for k = 0 to 5.
    factor = warmup_cosine(10, warmup_fraction=0.4)
    falling = [(1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)]
    assert [factor(step) for step in range(10)] == pytest.approx([0.25, 0.5, 0.75, 1, *falling])
    assert factor(7) == pytest.approx(0.5)
    assert factor(10) == pytest.approx(0)


def test_the_floor_is_where_the_rate_ends() -> None:
    factor = warmup_cosine(10, warmup_fraction=0.0, floor=0.1)
    assert factor(10) == factor(99) == pytest.approx(0.1)


@given(st.integers(1, 50), st.floats(0, 1), st.floats(0, 1), st.integers(0, 80))
def test_the_factor_is_within_0_and_1_and_the_first_step_moves(
    num_steps: int, warmup: float, floor: float, step: int
) -> None:
    factor = warmup_cosine(num_steps, warmup_fraction=warmup, floor=floor)
    assert 0 <= factor(step) <= 1
    assert factor(0) > 0
