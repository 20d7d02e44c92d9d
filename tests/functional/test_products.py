"""Products by oneDNN, where it is the faster library, against plain ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rlff_lightning.functional import products
from rlff_lightning.functional.products import add_product, linear, product
from rlff_lightning.models.cpu_linear import CPULinear, use_cpu_linear

needs_avx512 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="oneDNN is taken with AVX-512 alone"
)


@pytest.fixture(autouse=True)
def other_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processor be of a maker that oneDNN is taken with."""
    monkeypatch.setattr(products, "_has_mkls_maker", lambda: False)


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give small products to oneDNN too."""
    monkeypatch.setattr(products, "_MIN_MULTIPLY_ADDS", 0)
    monkeypatch.setattr(products, "_MIN_SUMMANDS", 0)
    monkeypatch.setattr(products, "_SMALL_WEIGHT", 0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count what oneDNN computes."""
    counted: list[int] = []
    plain = products._onednn

    def counting(*args: torch.Tensor | None) -> torch.Tensor:
        counted.append(1)
        return plain(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(products, "_onednn", counting)
    return counted


@needs_avx512
@pytest.mark.usefixtures("any_size")
@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40)),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    has_bias=st.booleans(),
    is_expanded=st.booleans(),
)
def test_values_and_gradients_are_those_of_torchs_linear(
    shape: tuple[int, int], width: int, height: int, has_bias: bool, is_expanded: bool
) -> None:
    rows = torch.randn(*shape, width, requires_grad=True)
    weight = torch.randn(height, width, requires_grad=True)
    bias = torch.randn(height, requires_grad=True) if has_bias else None
    leaves = [leaf for leaf in (rows, weight, bias) if leaf is not None]
    # The gradient of a sum is one number seen everywhere: strides of 0.
    pull = torch.ones(()).expand(*shape, height) if is_expanded else torch.randn(*shape, height)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = nn.functional.linear(exact[0], exact[1], exact[2] if has_bias else None)
    found = linear(rows, weight, bias)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
    theirs = torch.autograd.grad(expected, exact, pull.double())
    ours = torch.autograd.grad(found, leaves, pull)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-4, rtol=1e-4)


@needs_avx512
@pytest.mark.usefixtures("any_size")
def test_a_product_of_transposed_matrices_is_added_to_a_sum(calls: list[int]) -> None:
    rows, columns, total = torch.randn(30, 7), torch.randn(30, 5), torch.ones(7, 5)
    add_product(total, rows.T, columns.T)
    assert len(calls) == 1
    torch.testing.assert_close(total, 1 + rows.T @ columns)


@needs_avx512
@pytest.mark.usefixtures("any_size")
def test_only_needed_gradients_are_computed(calls: list[int]) -> None:
    rows, weight = torch.randn(9, 8, requires_grad=True), torch.randn(6, 8)
    linear(rows, weight).sum().backward()
    assert len(calls) == 2


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_to_torch(dtype: torch.dtype, calls: list[int]) -> None:
    rows, columns = torch.randn(9, 8, dtype=dtype), torch.randn(6, 8, dtype=dtype)
    assert product(rows, columns).equal(rows @ columns.T)
    assert linear(rows, columns).equal(nn.functional.linear(rows, columns))
    assert not calls


@pytest.mark.usefixtures("any_size")
def test_autocast_decides_the_type(calls: list[int]) -> None:
    rows, weight = torch.randn(9, 8), torch.randn(6, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(rows, weight).dtype == torch.bfloat16
    assert not calls


@needs_avx512
def test_a_small_product_is_left_to_torch(calls: list[int]) -> None:
    product(torch.randn(2, 8), torch.randn(6, 8))
    assert not calls
    product(torch.randn(128, 128), torch.randn(128, 128))
    assert len(calls) == 1


@pytest.mark.usefixtures("any_size")
def test_mkl_is_taken_on_processors_of_its_maker(
    calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_has_mkls_maker", lambda: True)
    product(torch.randn(128, 128), torch.randn(128, 128))
    assert not calls


def test_a_models_linear_layers_turn_and_keep_their_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 2, bias=False)))
    rows, before = torch.randn(5, 4), dict(model.state_dict())
    expected = model(rows)
    use_cpu_linear(model)
    assert isinstance(model[0], CPULinear)
    assert isinstance(model[2][0], CPULinear)
    assert model.state_dict().keys() == before.keys()
    torch.testing.assert_close(model(rows), expected)


@needs_avx512
@pytest.mark.usefixtures("any_size")
def test_function_transforms_see_torchs_own_linear(calls: list[int]) -> None:
    weight, rows = torch.randn(6, 8), torch.randn(9, 8)
    gradient = torch.func.grad(lambda own: linear(rows, own).sum())(weight)
    assert not calls
    torch.testing.assert_close(gradient, rows.sum(0).expand(6, 8))
