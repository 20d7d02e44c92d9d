import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from rlff_lightning.errors import UserError
from rlff_lightning.functional.agreement import cohen_kappa


def test_kappa_takes_out_what_chance_alone_agrees_on() -> None:
    # 20 + 15 of 50 agree: p_o = .7. Rows 25, 25 and columns 30, 20:
    # p_e = (25 * 30 + 25 * 20) / 2500 = .5; kappa = .2 / .5 = .4.
    assert cohen_kappa(torch.tensor([[20, 5], [10, 15]])).item() == pytest.approx(0.4)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=40).filter(
        lambda pairs: len(set(sum(pairs, ()))) > 1
    )
)
def test_kappa_equals_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    counts = torch.zeros(3, 3, dtype=torch.int64)
    for one, other in pairs:
        counts[one, other] += 1
    first, second = zip(*pairs, strict=True)
    assert cohen_kappa(counts).item() == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


def test_kappa_is_undefined_where_chance_agrees_fully() -> None:
    assert math.isnan(cohen_kappa(torch.tensor([[7, 0], [0, 0]])).item())
    assert math.isnan(cohen_kappa(torch.zeros(2, 2)).item())


@pytest.mark.parametrize(
    "counts", [torch.zeros(2, 3), torch.zeros(4), torch.tensor([[-1, 0], [0, 1]])]
)
def test_counts_that_are_no_confusion_are_refused(counts: torch.Tensor) -> None:
    with pytest.raises(UserError, match="cohen_kappa"):
        cohen_kappa(counts)
