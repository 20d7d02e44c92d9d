"""What every policy objective does: terms per token, then a micro-batch's part of the loss.

Three steps that stay apart: terms, aggregation (see ``aggregation``), coefficients.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from rlff_lightning.errors import UserError
from rlff_lightning.functional.aggregation import Aggregation, aggregate, window_size
from rlff_lightning.functional.kl import KLEstimator, approx_kl
from rlff_lightning.functional.ratios import MismatchWeights, mismatch_weights
from rlff_lightning.functional.surrogates import Surrogate


class ObjectiveTerms(NamedTuple):
    """What an objective makes of every token of a micro-batch."""

    policy_loss: Tensor
    """Surrogate loss times mismatch weight, ``(B, T)``; 0 where nothing trains."""
    kl: Tensor | None
    """Estimated KL to the reference, ``(B, T)``, nats; ``None`` without one."""
    entropy: Tensor | None
    """The policy's entropy, ``(B, T)``, nats; ``None`` if it was not given."""
    surrogate: Surrogate
    """Ratios and clipping behind the loss; ratios are 1 where nothing trains."""
    mismatch: MismatchWeights | None
    """Between engine and trainer; ``None`` if the engine's log-probabilities are unknown."""


class PolicyLoss(NamedTuple):
    """A micro-batch's part of the window's loss; all scalars, and all add up."""

    loss: Tensor
    """policy_loss + kl_coef * kl - entropy_coef * entropy."""
    policy_loss: Tensor
    """The surrogate alone."""
    kl: Tensor | None
    """Estimated KL to the reference, nats."""
    entropy: Tensor | None
    """The policy's entropy, nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyObjective(ABC):
    """What a policy update minimises.

    L = aggregate(w_t L_t + kl_coef k_t - entropy_coef H_t): the surrogate L_t of the class with the
    weight w_t between engine and trainer, the KL k_t to the reference, the entropy H_t of the next
    token. All three are aggregated alike, so that a step's bonus weighs what its policy gradient
    weighs, as in A3C. TRL takes the bonus as a mean over tokens, whatever the surrogate's: the
    same for ``token``, another coefficient for ``constant``, another weighting for ``sequence``.

    Source: of the entropy bonus Mnih et al. 2016, arXiv:1602.01783, sec. 4.

    Args:
        aggregation: What counts the same in the mean: every ``token``, every ``sequence``, or a
            sum over sequences divided by the ``constant`` length ``max_tokens``.
        max_tokens: Limit of a completion, tokens; needed for ``constant`` only.
        kl_coef: Weight of the KL to the reference model in the loss; 0 needs no reference.
        kl_estimator: How the KL is estimated: ``k1``, ``k2`` or ``k3``.
        kl_correction: Weight each token's KL by the objective's ratio, which makes the gradient of
            ``k3`` that of the KL itself, without bias (DeepSeek-AI 2025, arXiv:2512.02556).
        entropy_coef: Weight of the entropy bonus.
        mismatch_cap: Upper bound of the importance weight between engine and trainer, above 0;
            ``null`` leaves the mismatch uncorrected.
        mismatch_range: Sequences whose geometric mean of that ratio is outside are left out;
            ``null`` keeps all. By itself it corrects nothing of those that are kept.
    """

    aggregation: Aggregation = "token"
    max_tokens: int | None = None
    kl_coef: float = 0.0
    kl_estimator: KLEstimator = "k3"
    kl_correction: bool = False
    entropy_coef: float = 0.0
    mismatch_cap: float | None = 2.0
    mismatch_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        owner = type(self).__name__
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in given.items():
            if isinstance(value, int | float) and not value >= 0:
                raise UserError(f"{owner}.{name} must be at least 0, got {value!r}")
        max_ratio = given.get("max_ratio")
        if max_ratio is not None and max_ratio < 1 + given["clip_high"]:
            raise UserError(
                f"{owner}.max_ratio must be at least 1 + clip_high = {1 + given['clip_high']:g}, "
                f"got {max_ratio!r}: bad tokens are not bounded before good ones are"
            )
        if self.mismatch_cap == 0:
            raise UserError(
                f"{owner}.mismatch_cap must be above 0, got 0, which weighs every token 0; null "
                "leaves the mismatch uncorrected"
            )
        if self.aggregation == "constant" and not self.max_tokens:
            raise UserError(
                f"{owner}.max_tokens must be the limit of a completion for aggregation "
                f"'constant', got {self.max_tokens!r}"
            )
        if self.mismatch_range is not None and self.mismatch_range[0] >= self.mismatch_range[1]:
            raise UserError(
                f"{owner}.mismatch_range must be (low, high) with low < high, "
                f"got {self.mismatch_range!r}"
            )

    @property
    def corrects_mismatch(self) -> bool:
        """Completions of slightly other weights than the trainer's are weighted or left out."""
        return self.mismatch_cap is not None or self.mismatch_range is not None

    @property
    def is_without_std(self) -> bool:
        """Its paper divides advantages by no std."""
        return False

    @abstractmethod
    def surrogate(
        self, logps: Tensor, old_logps: Tensor, advantages: Tensor, loss_mask: Tensor
    ) -> Surrogate:
        """Form the policy loss of each token.

        Args:
            logps: Log-probabilities now, with gradient, ``(B, T)``, nats, finite.
            old_logps: The same at rollout.
            advantages: ``(B, 1)`` or ``(B, T)``.
            loss_mask: Tokens that train, ``(B, T)``.

        Returns:
            The surrogate, unmasked.
        """

    def terms(
        self,
        logps: Tensor,
        old_logps: Tensor,
        advantages: Tensor,
        loss_mask: Tensor,
        ref_logps: Tensor | None = None,
        sampling_logps: Tensor | None = None,
        entropy: Tensor | None = None,
    ) -> ObjectiveTerms:
        """Form all terms of each token; gradients flow through ``logps`` and ``entropy`` alone.

        Args:
            logps: Log-probabilities now, ``(B, T)``, nats.
            old_logps: The trainer's at rollout; the caller detaches. With one update per rollout
                that is ``logps.detach()``.
            advantages: One per completion ``(B,)``, or per token ``(B, T)``.
            loss_mask: Tokens that train, ``(B, T)``; elsewhere all tensors may be inf or nan.
            ref_logps: The reference's, ``(B, T)``; needed if ``kl_coef`` is not 0.
            sampling_logps: The engine's, ``(B, T)``; without them no mismatch is corrected.
            entropy: The policy's entropy, ``(B, T)``; needed if ``entropy_coef`` is not 0.

        Returns:
            Terms, ``(B, T)``.

        Raises:
            UserError: If a coefficient is set and what it weighs is missing.
        """
        self._check(ref_logps=ref_logps, entropy=entropy)
        logps = torch.where(loss_mask, logps, 0.0)
        columns = advantages.unsqueeze(-1) if advantages.dim() == 1 else advantages
        surrogate = self.surrogate(
            logps, torch.where(loss_mask, old_logps, 0.0), columns, loss_mask
        )
        policy_loss, mismatch, kl = surrogate.loss, None, None
        if sampling_logps is not None:
            mismatch = mismatch_weights(
                old_logps,
                sampling_logps,
                loss_mask,
                cap=self.mismatch_cap,
                sequence_range=self.mismatch_range,
            )
            policy_loss = policy_loss * mismatch.weights
        if ref_logps is not None:
            kl = approx_kl(logps, torch.where(loss_mask, ref_logps, 0.0), self.kl_estimator)
            if self.kl_correction:
                kl = kl * surrogate.ratios
        return ObjectiveTerms(
            policy_loss=torch.where(loss_mask, policy_loss, 0.0),
            kl=kl,
            entropy=None if entropy is None else torch.where(loss_mask, entropy, 0.0),
            surrogate=surrogate,
            mismatch=mismatch,
        )

    def size(self, loss_mask: Tensor) -> Tensor:
        """Count what a micro-batch adds to its window's size; see ``window_size``."""
        return window_size(loss_mask, self.aggregation, max_tokens=self.max_tokens)

    def loss(self, terms: ObjectiveTerms, loss_mask: Tensor, size: Tensor | float) -> PolicyLoss:
        """Aggregate and add up.

        Args:
            terms: What ``terms`` returned.
            loss_mask: Tokens that train, ``(B, T)``.
            size: Sum of ``size(loss_mask)`` over the window's micro-batches on all ranks.

        Returns:
            Scalars that add up to the window's; times world size and times
            ``accumulate_grad_batches`` where the trainer divides by them.
        """

        def reduce(values: Tensor) -> Tensor:
            return aggregate(values, loss_mask, self.aggregation, size)

        loss = policy_loss = reduce(terms.policy_loss)
        kl = None if terms.kl is None else reduce(terms.kl)
        entropy = None if terms.entropy is None else reduce(terms.entropy)
        if kl is not None and self.kl_coef:
            loss = loss + self.kl_coef * kl
        if entropy is not None and self.entropy_coef:
            loss = loss - self.entropy_coef * entropy
        return PolicyLoss(loss, policy_loss, kl, entropy)

    def _check(self, *, ref_logps: Tensor | None, entropy: Tensor | None) -> None:
        owner = type(self).__name__
        if self.kl_coef and ref_logps is None:
            raise UserError(
                f"{owner}.kl_coef is {self.kl_coef}, which needs ref_logps, got None; "
                "set it to 0 to train without a reference"
            )
        if self.entropy_coef and entropy is None:
            raise UserError(f"{owner}.entropy_coef is {self.entropy_coef} but entropy is None")
