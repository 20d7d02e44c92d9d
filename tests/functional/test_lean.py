import pytest
import torch
from torch import Tensor, nn

from rlff_lightning.functional.lean import gated_silu, rms_norm, rotate


def plain_norm(rows: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * rows / (rows.square().mean(-1, keepdim=True) + eps).sqrt()


def test_a_row_is_divided_by_its_root_mean_square() -> None:
    # Mean square of (3, 4) is 12.5; with an eps of 3.5 the root is 4.
    rows, weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([1.0, 2.0])
    torch.testing.assert_close(rms_norm(rows, weight, 3.5), torch.tensor([[0.75, 2.0], [0.0, 0.0]]))


def test_a_gate_of_zero_lets_nothing_through() -> None:
    gate, up = torch.tensor([0.0, 50.0, -50.0]), torch.tensor([7.0, 2.0, 3.0])
    torch.testing.assert_close(gated_silu(gate, up), torch.tensor([0.0, 100.0, 0.0]))


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
def test_gradients_of_a_norm_are_autograds(needs: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    rows, weight = torch.randn(2, 5, 8).double(), torch.randn(8).double()
    inputs = [x.requires_grad_(need) for x, need in zip((rows, weight), needs, strict=True)]
    trained = [x for x in inputs if x.requires_grad]
    assert torch.autograd.gradcheck(
        lambda *_: rms_norm(rows, weight, 0.3), trained, check_undefined_grad=False
    )
    found = torch.autograd.grad(rms_norm(rows, weight, 0.3).cos().sum(), trained)
    expected = torch.autograd.grad(plain_norm(rows, weight, 0.3).cos().sum(), trained)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_gradients_of_a_gate_are_autograds() -> None:
    torch.manual_seed(0)
    gate, up = (torch.randn(3, 7).double().requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(gated_silu, (gate, up))
    found = torch.autograd.grad(gated_silu(gate, up).cos().sum(), (gate, up))
    expected = torch.autograd.grad((nn.functional.silu(gate) * up).cos().sum(), (gate, up))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_what_is_kept_for_backward_is_less_than_autograd_keeps() -> None:
    def kept(act: object, *inputs: Tensor) -> int:
        seen: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            act(*inputs)  # type: ignore[operator]
        return sum(seen.values())

    rows, weight = torch.randn(64, 32, requires_grad=True), torch.ones(32, requires_grad=True)
    gate, up = (torch.randn(64, 32, requires_grad=True) for _ in range(2))
    size = rows.nbytes
    assert kept(lambda x: rms_norm(x, weight, 1e-6), rows) < 1.2 * size
    assert kept(lambda x: plain_norm(x, weight, 1e-6), rows) > 1.9 * size
    assert kept(gated_silu, gate, up) == 2 * size
    assert kept(lambda g, u: nn.functional.silu(g) * u, gate, up) == 3 * size


def test_function_transforms_see_torchs_own_operations() -> None:
    rows, weight = torch.randn(3, 8), torch.randn(8)
    inner = torch.func.grad(lambda x: rms_norm(x, weight, 0.1).sum())(rows)
    outer = torch.func.grad(lambda x: plain_norm(x, weight, 0.1).sum())(rows)
    torch.testing.assert_close(inner, outer)
    one = torch.func.grad(lambda x: gated_silu(x, rows).sum())(rows)
    other = torch.func.grad(lambda x: (nn.functional.silu(x) * rows).sum())(rows)
    torch.testing.assert_close(one, other)


def test_a_quarter_turn_swaps_the_halves_and_gradients_turn_back() -> None:
    query = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    cos, sin = torch.zeros(1, 1, 1, 4), torch.ones(1, 1, 1, 4)
    turned, _ = rotate(query, query, cos, sin)
    assert turned.flatten().tolist() == [-3.0, -4.0, 1.0, 2.0]
    torch.manual_seed(0)
    inputs = [torch.randn(2, heads, 3, 4).double().requires_grad_() for heads in (2, 1)]
    angles = [torch.randn(2, 1, 3, 4).double() for _ in range(2)]
    assert torch.autograd.gradcheck(lambda q, k: rotate(q, k, *angles), inputs)
