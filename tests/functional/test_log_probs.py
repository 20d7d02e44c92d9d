import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlff_lightning.errors import UserError
from rlff_lightning.functional.log_probs import selective_log_softmax, token_logps


def draw(num_rows: int, vocabulary: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_rows, 3, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocabulary, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(vocabulary, generator=generator, dtype=torch.float64)
    ids = torch.randint(vocabulary, (num_rows,), generator=generator)
    for leaf in (hidden, weight, bias):
        leaf.requires_grad_()
    return hidden, weight, bias, ids


def test_a_token_of_probability_one_fifth_scores_log_one_fifth() -> None:
    # Logits (0, log 4): probabilities 1/5 and 4/5; H = log(5)/5 + (4/5) log(5/4) = 0.5004.
    hidden, weight = torch.ones(1, 1), torch.tensor([[0.0], [math.log(4)]])
    logps, entropy = token_logps(hidden, weight, torch.tensor([0]))
    assert logps.item() == pytest.approx(math.log(0.2))
    assert entropy.item() == pytest.approx(0.500402, abs=1e-6)


def test_temperature_divides_the_logits_before_the_softmax() -> None:
    # Logits (0, log 4) / 2 = (0, log 2): probabilities 1/3 and 2/3.
    hidden, weight = torch.ones(1, 1), torch.tensor([[0.0], [math.log(4)]])
    logps, _ = token_logps(hidden, weight, torch.tensor([1]), temperature=2.0)
    assert logps.item() == pytest.approx(math.log(2 / 3))
    plain = selective_log_softmax(hidden @ weight.T, torch.tensor([1]), temperature=2.0)
    assert plain.item() == pytest.approx(math.log(2 / 3))


@settings(max_examples=25, deadline=None)
@given(
    num_rows=st.integers(1, 7),
    chunk_size=st.integers(1, 9),
    temperature=st.floats(0.3, 3),
    has_bias=st.booleans(),
    uses=st.sampled_from(["logps", "entropy", "both"]),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_equal_those_of_all_logits_at_once(
    num_rows: int, chunk_size: int, temperature: float, has_bias: bool, uses: str, seed: int
) -> None:
    hidden, weight, bias, ids = draw(num_rows, 5, seed)
    leaves = [hidden, weight, *([bias] if has_bias else [])]
    logits = (hidden @ weight.T + (bias if has_bias else 0)) / temperature
    distribution = torch.distributions.Categorical(logits=logits)
    expected = (distribution.log_prob(ids), distribution.entropy())
    stats = token_logps(
        hidden,
        weight,
        ids,
        temperature=temperature,
        chunk_size=chunk_size,
        bias=bias if has_bias else None,
    )
    torch.testing.assert_close(tuple(stats), expected, rtol=1e-9, atol=1e-9)
    pull = torch.linspace(-1, 2, num_rows, dtype=torch.float64)
    losses = [
        (logps * pull).sum() * (uses != "entropy")
        + (entropy * pull.flip(0)).sum() * (uses != "logps")
        for logps, entropy in (stats, expected)
    ]
    torch.testing.assert_close(
        torch.autograd.grad(losses[0], leaves), torch.autograd.grad(losses[1], leaves)
    )


@pytest.mark.parametrize("uses", [0, 1])
def test_one_result_alone_has_the_right_gradient(uses: int) -> None:
    hidden, weight, bias, ids = draw(4, 6)

    def result(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return token_logps(hidden, weight, ids, temperature=0.7, chunk_size=3, bias=bias)[uses]

    assert torch.autograd.gradcheck(result, (hidden, weight, bias))


def test_a_frozen_output_head_gets_no_gradient() -> None:
    hidden, weight, _, ids = draw(4, 6)
    token_logps(hidden, weight.detach(), ids).logps.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_bfloat16_gradients_are_summed_in_float32() -> None:
    hidden, weight, _, ids = draw(256, 50)
    small_hidden = (hidden.detach() + 1).bfloat16()
    small_weight = weight.detach().bfloat16().requires_grad_()
    stats = token_logps(small_hidden, small_weight, ids, chunk_size=1)
    stats.logps.sum().backward()
    assert stats.logps.dtype == torch.float32
    exact = small_weight.detach().double().requires_grad_()
    (small_hidden.double() @ exact.T).log_softmax(-1).gather(1, ids[:, None]).sum().backward()
    assert small_weight.grad is not None
    assert exact.grad is not None
    # Rounding the logits and the result costs 2^-8 at most; rounding 256 partial sums 5 times it.
    error = (small_weight.grad.double() - exact.grad).norm() / exact.grad.norm()
    assert error < 2**-8


def test_autocast_rounds_alike_in_forward_and_backward() -> None:
    hidden, weight, _, ids = (
        x.detach().float() if x.is_floating_point() else x for x in draw(8, 9)
    )
    hidden.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stats = token_logps(hidden, weight, ids)
    stats.logps.sum().backward()
    rounded = hidden.detach().bfloat16().requires_grad_()
    expected = token_logps(rounded, weight.bfloat16(), ids)
    expected.logps.sum().backward()
    assert rounded.grad is not None
    torch.testing.assert_close(stats.logps, expected.logps, rtol=0, atol=0)
    torch.testing.assert_close(hidden.grad, rounded.grad.float(), rtol=0, atol=0)


def test_logits_of_all_rows_never_exist() -> None:
    hidden, weight, _, ids = draw(64, 400)
    sizes: list[int] = []

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in [result] if isinstance(x, Tensor))
            return result

    with Largest():
        token_logps(hidden, weight, ids, chunk_size=8).logps.sum().backward()
    assert max(sizes) == 8 * 400


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature: float) -> None:
    hidden, weight, _, ids = draw(2, 3)
    with pytest.raises(UserError, match="temperature must be above 0"):
        token_logps(hidden, weight, ids, temperature=temperature)
    with pytest.raises(UserError, match="temperature must be above 0"):
        selective_log_softmax(hidden @ weight.T, ids, temperature)


def test_hidden_states_of_another_width_are_refused() -> None:
    hidden, weight, _, ids = draw(2, 3)
    with pytest.raises(UserError, match=r"must be \(N, H\) = \(2, 3\), got \(2, 2\)"):
        token_logps(hidden[:, :2], weight, ids)
