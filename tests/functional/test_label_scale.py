import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.errors import UserError
from rlff_lightning.functional.label_scale import fit_label_scale


def test_values_are_counted_in_spreads_from_the_mean() -> None:
    # Mean 3, unbiased standard deviation 2.
    scale = fit_label_scale(torch.tensor([1.0, 3.0, 5.0]), "values")
    assert (scale.mean, scale.unit) == (3, 2)
    assert scale.targets(torch.tensor([5.0, 2.0])).tolist() == [1, -0.5]


def test_ranks_do_not_see_how_far_out_a_label_is() -> None:
    # Mid-ranks 1/8, 3/8, 5/8, 7/8 less a half, times sqrt 12 = 3.464: -1.299, -.433, .433, 1.299.
    labels = torch.tensor([0.1, 0.2, 0.3, 9.0])
    scale = fit_label_scale(labels, "ranks")
    expected = [share * 12**0.5 for share in (-0.375, -0.125, 0.125, 0.375)]
    assert scale.targets(labels).tolist() == pytest.approx(expected)
    # Between the second and the third: exactly in the middle.
    assert scale.targets(torch.tensor([0.25])).item() == pytest.approx(0)
    # cov = (.375 (9 - .1) + .125 (.3 - .2)) sqrt 12 / 4, var = 2 (.375^2 + .125^2) 12 / 4.
    assert scale.unit == pytest.approx((3.3375 + 0.0125) * 12**0.5 / (2 * 0.15625 * 12))


def test_equal_labels_share_a_rank() -> None:
    scale = fit_label_scale(torch.tensor([1.0, 1.0, 2.0, 2.0]), "ranks")
    # Mid-ranks 1/4 and 3/4.
    found = scale.targets(torch.tensor([1.0, 2.0])).tolist()
    assert found == pytest.approx([-0.25 * 12**0.5, 0.25 * 12**0.5])


@pytest.mark.parametrize("kind", ["values", "ranks"])
@pytest.mark.parametrize("labels", [[0.25], [0.25, 0.25]])
def test_labels_that_do_not_differ_keep_a_unit_of_one(kind, labels) -> None:  # type: ignore[no-untyped-def]
    scale = fit_label_scale(torch.tensor(labels), kind)
    assert (scale.mean, scale.unit) == (0.25, 1)
    assert scale.targets(torch.tensor(labels)).abs().max() == 0


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=20))
def test_no_other_line_leads_ranks_back_with_less_squared_error(values: list[float]) -> None:
    labels = torch.tensor(values, dtype=torch.float64)
    scale = fit_label_scale(labels, "ranks")
    targets = scale.targets(labels)
    assert targets.mean().item() == pytest.approx(0, abs=1e-9)
    error = ((scale.mean + scale.unit * targets - labels) ** 2).sum()
    for mean, unit in ((0.01, 0.0), (-0.01, 0.0), (0.0, 0.01), (0.0, -0.01)):
        other = (scale.mean + mean + (scale.unit + unit) * targets - labels) ** 2
        assert error <= other.sum() + 1e-9


def test_no_labels_have_no_scale() -> None:
    with pytest.raises(UserError, match="must not be empty"):
        fit_label_scale(torch.tensor([]), "ranks")
