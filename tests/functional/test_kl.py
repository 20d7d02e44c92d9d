import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.errors import UserError
from rlff_lightning.functional.kl import KLEstimator, approx_kl, k1, k2, k3, sequence_kl

logits = st.lists(st.floats(-5, 5), min_size=4, max_size=4).map(
    lambda row: torch.tensor(row, dtype=torch.float64)
)
log_probabilities = st.floats(-20, 0)


def test_estimators_of_a_token_twice_as_likely_as_under_the_reference() -> None:
    # p = 1/2, q = 1/4, d = log q - log p = -log 2 = -0.6931:
    # k1 = 0.6931, k2 = 0.6931^2 / 2 = 0.2402, k3 = 1/2 - 1 + 0.6931 = 0.1931.
    logps, ref_logps = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert k1(logps, ref_logps).item() == pytest.approx(0.693147)
    assert k2(logps, ref_logps).item() == pytest.approx(0.2402265)
    assert k3(logps, ref_logps).item() == pytest.approx(0.193147)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
@given(policy=logits, reference=logits)
def test_the_expectation_of_k1_and_k3_is_the_kl(
    estimator: KLEstimator, policy: torch.Tensor, reference: torch.Tensor
) -> None:
    logps, ref_logps = policy.log_softmax(0), reference.log_softmax(0)
    expected = torch.nn.functional.kl_div(ref_logps, logps, log_target=True, reduction="sum")
    mean = (logps.exp() * approx_kl(logps, ref_logps, estimator)).sum()
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-12)


@given(policy=logits, reference=logits)
def test_the_expected_gradient_of_k2_is_the_gradient_of_the_kl(
    policy: torch.Tensor, reference: torch.Tensor
) -> None:
    policy.requires_grad_()
    logps, ref_logps = policy.log_softmax(0), reference.log_softmax(0)
    kl = (logps.exp() * (logps - ref_logps)).sum()
    (expected,) = torch.autograd.grad(kl, policy, retain_graph=True)
    sampled = (logps.detach().exp() * k2(logps, ref_logps)).sum()
    (gradient,) = torch.autograd.grad(sampled, policy)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-10)


@given(log_probabilities, log_probabilities)
def test_k3_is_never_negative(logp: float, ref_logp: float) -> None:
    for dtype in (torch.float32, torch.float64):
        assert k3(torch.tensor(logp, dtype=dtype), torch.tensor(ref_logp, dtype=dtype)) >= 0


def test_k3_of_nearly_equal_policies_keeps_its_digits_in_float32() -> None:
    # d = 2^-10: exp(d) - 1 - d = d^2/2 + d^3/6 = 4.76992e-7; rounding exp(d) first costs 6e-8.
    difference = torch.tensor(2.0**-10)
    value = k3(torch.zeros(()), difference).item()
    assert value == pytest.approx(4.76992e-7, rel=1e-3)


def test_sequence_kl_adds_up_the_counted_tokens() -> None:
    # k1 = -1 - -2 = 1 and -1 - -4 = 3; the last token is not counted.
    logps = torch.tensor([[-1.0, -1.0, -1.0]])
    ref_logps = torch.tensor([[-2.0, -4.0, -math.inf]])
    assert sequence_kl(logps, ref_logps, torch.tensor([[True, True, False]])).tolist() == [4.0]


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(UserError, match="'k1', 'k2' or 'k3', got 'k4'"):
        approx_kl(torch.zeros(1), torch.zeros(1), "k4")  # type: ignore[arg-type]


def test_k3_stays_finite_where_the_reference_is_far_above_the_policy() -> None:
    logps = torch.tensor([-200.0, -1.0], requires_grad=True)
    value = k3(logps, torch.tensor([-1.0, -1.0]))
    value.sum().backward()
    assert value.isfinite().all()
    assert logps.grad is not None
    assert logps.grad.isfinite().all()
