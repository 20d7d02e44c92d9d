import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.errors import UserError
from rlff_lightning.functional.ensemble import SHARE, member_draws, pessimistic


def test_pessimism_takes_standard_deviations_off_the_mean() -> None:
    # Means 2 and 5; unbiased standard deviations 1 and 0.
    values = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]])
    assert pessimistic(values, 0.0).tolist() == [2.0, 5.0]
    assert pessimistic(values, 0.5).tolist() == [1.5, 5.0]
    assert pessimistic(values, "min").tolist() == [1.0, 5.0]
    with pytest.raises(UserError, match="at least 0, or 'min', got -1"):
        pessimistic(values, -1.0)


@given(
    st.lists(st.lists(st.floats(-9, 9), min_size=4, max_size=4), min_size=1),
    st.floats(0, 5),
    st.floats(-3, 3),
)
def test_pessimism_never_adds_and_moves_with_a_shift(
    rows: list[list[float]], k: float, shift: float
) -> None:
    values = torch.tensor(rows, dtype=torch.float64)
    for pessimism in (k, "min"):
        cautious = pessimistic(values, pessimism)  # type: ignore[arg-type]
        assert (cautious <= values.mean(1) + 1e-9).all()
        moved = pessimistic(values + shift, pessimism)  # type: ignore[arg-type]
        torch.testing.assert_close(moved, cautious + shift)


def test_members_draw_contexts_whole_and_each_its_own_share() -> None:
    ids = torch.randint(0, 2**31, (20_000,), generator=torch.Generator().manual_seed(0))
    drawn = member_draws(ids, 4)
    # Standard error of a share: sqrt(.632 * .368 / 20000) = .0034.
    assert drawn.double().mean(0).tolist() == pytest.approx([SHARE] * 4, abs=0.015)
    # Independent members: both draw a context with probability .632^2 = .399.
    for one in range(4):
        for other in range(one):
            both = (drawn[:, one] & drawn[:, other]).double().mean().item()
            assert both == pytest.approx(SHARE**2, abs=0.015)
    again = member_draws(ids.flip(0), 4).flip(0)
    assert torch.equal(again, drawn)
    # Numbers that follow each other are drawn as freely as any: a member's draw of one and the
    # next member's of the number before agree by chance, .632^2 + .368^2.
    counted = member_draws(torch.arange(20_000), 2)
    assert counted.double().mean().item() == pytest.approx(SHARE, abs=0.015)
    agree = (counted[1:, 0] == counted[:-1, 1]).double().mean().item()
    assert agree == pytest.approx(SHARE**2 + (1 - SHARE) ** 2, abs=0.015)
