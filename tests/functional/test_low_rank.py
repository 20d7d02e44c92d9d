import pytest
import torch

from rlff_lightning.functional.low_rank import low_rank_linear


def test_the_change_is_added_at_its_scale() -> None:
    rows, weight, bias = torch.tensor([[1.0, 2.0]]), torch.eye(2), torch.tensor([10.0, 20.0])
    down, up = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [0.0]])
    # The bias takes (1, 2) to (11, 22); the inner 3 adds half of itself to the first.
    found = low_rank_linear(rows, weight, bias, down, up, 0.5)
    torch.testing.assert_close(found, torch.tensor([[12.5, 22.0]]))


@pytest.mark.parametrize("trains_input", [True, False])
def test_gradients_are_autograds(trains_input: bool) -> None:
    torch.manual_seed(0)
    rows = torch.randn(2, 3, 5).double().requires_grad_(trains_input)
    weight, bias = torch.randn(4, 5).double(), torch.randn(4).double()
    down, up = (torch.randn(*s).double().requires_grad_() for s in ((2, 5), (4, 2)))
    trained = [x for x in (rows, down, up) if x.requires_grad]
    found = low_rank_linear(rows, weight, bias, down, up, 0.3)
    plain = rows @ weight.T + bias + 0.3 * (rows @ down.T @ up.T)
    torch.testing.assert_close(found, plain, atol=1e-12, rtol=0)
    for a, b in zip(
        torch.autograd.grad(found.cos().sum(), trained),
        torch.autograd.grad(plain.cos().sum(), trained),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_no_rows_give_no_rows() -> None:
    rows, weight = torch.zeros(1, 0, 6, requires_grad=True), torch.ones(5, 6)
    down, up = torch.ones(2, 6, requires_grad=True), torch.ones(5, 2, requires_grad=True)
    found = low_rank_linear(rows, weight, None, down, up, 0.5)
    assert found.shape == (1, 0, 5)
    found.sum().backward()
    assert down.grad is not None
    assert torch.equal(down.grad, torch.zeros_like(down))
