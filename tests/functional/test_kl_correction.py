import torch
from torch import Tensor

from rlff_lightning.functional.objectives import GRPO

# Two distributions over four tokens, far enough apart to tell estimators apart.
POLICY = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


def expected_gradient(*, is_corrected: bool) -> Tensor:
    """Gradient of the KL term in the policy's logits, averaged over every token it can draw."""
    logits = POLICY.log().requires_grad_()
    logps = logits.log_softmax(-1)
    objective = GRPO(kl_coef=1.0, kl_correction=is_corrected)
    terms = objective.terms(
        logps[:, None],
        logps.detach()[:, None],
        torch.zeros(4, dtype=torch.float64),
        torch.ones(4, 1, dtype=torch.bool),
        ref_logps=REFERENCE.log()[:, None],
    )
    assert terms.kl is not None
    (POLICY * terms.kl[:, 0]).sum().backward()
    assert logits.grad is not None
    return logits.grad


def test_the_corrected_kls_expected_gradient_is_that_of_the_kl_itself() -> None:
    logits = POLICY.log().requires_grad_()
    logps = logits.log_softmax(-1)
    (logps.exp() * (logps - REFERENCE.log())).sum().backward()
    torch.testing.assert_close(expected_gradient(is_corrected=True), logits.grad)
    assert not torch.allclose(expected_gradient(is_corrected=False), logits.grad, rtol=0.1)


def test_the_correction_leaves_the_first_updates_kl_as_it_is() -> None:
    logps = torch.tensor([[-1.0, -2.0]])
    reference = torch.tensor([[-1.5, -1.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    plain, corrected = (
        GRPO(kl_coef=1.0, kl_correction=on).terms(
            logps, logps, torch.zeros(1), mask, ref_logps=reference
        )
        for on in (False, True)
    )
    assert torch.equal(plain.kl, corrected.kl)  # type: ignore[arg-type]
