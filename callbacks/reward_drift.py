"""Hold the learned reward against a simulated one while the policy climbs it."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from rlff_lightning.errors import UserError
from rlff_lightning.functional.ranking import pairwise_accuracy
from rlff_lightning.modules.direct_scorer import FutureScorer
from rlff_lightning.modules.policy import PolicyModule
from rlff_lightning.rollout.group import Group
from rlff_lightning.rollout.ranks import of_all_ranks
from rlff_lightning.rollout.scorers import Scorer
from rlff_lightning.seeds import derive_seed


class Rewards(NamedTuple):
    """The same replies under both rewards. B replies."""

    learned: Tensor
    """What the policy is trained on, before its weight, ``(B,)``."""
    simulated: Tensor
    """What it never saw, ``(B,)``."""
    context_ids: Tensor
    """The same number for replies to one context, ``(B,)``, int64."""


class RewardDrift(Callback):
    """Every few iterations score a sample of replies by both rewards, and warn when they part.

    Logs ``drift/learned`` and ``drift/simulated`` (means), ``drift/agreement`` (share of pairs of
    one context that both order alike; chance is one half) and ``drift/gap``: how much more the
    learned mean has risen since the first comparison than the simulated one, each in standard
    deviations of its own rewards then. Warns if the gap is above ``max_gap`` by more than two
    standard errors, or the agreement below ``min_agreement``. It draws from no global generator: a
    run trains the same with it and without.

    Args:
        simulated: The reward to compare with, e.g. ``FutureScorer``.
        term: Name of the learned term.
        every: Iterations between two comparisons; the first iteration is compared.
        num_groups: Groups compared per process.
        max_gap: Largest lead of the learned reward, in standard deviations.
        min_agreement: Least share of pairs ordered alike.

    Source: Gao et al. 2023, arXiv:2210.10760 (a proxy reward rises on where the true one falls).
    """

    def __init__(
        self,
        simulated: Scorer,
        term: str = "future",
        every: int = 10,
        num_groups: int = 4,
        max_gap: float = 0.5,
        min_agreement: float = 0.5,
    ) -> None:
        for name, value in (("every", every), ("num_groups", num_groups)):
            if value < 1:
                raise UserError(f"RewardDrift.{name} must be at least 1, got {value!r}")
        self.simulated = simulated
        self.term = term
        self.every = every
        self.num_groups = num_groups
        self.max_gap = max_gap
        self.min_agreement = min_agreement
        self._compared = 0
        self._first: list[float] = []

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        policy = _policy_module(pl_module)
        names = [scorer.name for scorer in policy.scorers if scorer.weight]
        if self.term not in names:
            raise UserError(
                f"RewardDrift.term must be a term with a weight, one of {names}, got {self.term!r}"
            )
        borrows = isinstance(self.simulated, FutureScorer) and self.simulated.supporter is None
        if borrows and policy.rollout.ahead:
            raise UserError(
                "RewardDrift.simulated.supporter must be given with rollout.ahead: the policy's "
                "engine is busy; got none"
            )
        self.simulated.start(trainer.strategy.root_device)
        self.simulated.attach(policy.learning)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        experience = _policy_module(pl_module).experience
        if experience is None or not experience.groups or experience.iteration == self._compared:
            return
        self._compared = experience.iteration
        if (experience.iteration - 1) % self.every:
            return
        rewards = self._compare(experience.groups[: self.num_groups], _policy_module(pl_module))
        figures = self._figures(rewards)
        error = figures.pop("error")
        pl_module.log_dict({f"drift/{name}": value for name, value in figures.items()})
        if trainer.is_global_zero:
            self._warn(experience.iteration, figures, error)

    @torch.no_grad()
    def _compare(self, groups: Sequence[Group], policy: PolicyModule) -> Rewards:
        weight = next(s.weight for s in policy.scorers if s.name == self.term)
        learned = [value / weight for group in groups for value in group.rewards[self.term]]
        samples = [sample for group in groups for sample in group.samples]
        simulated = self.simulated.score(samples).tolist()
        # A rank's contexts are its own, whatever they are called.
        contexts = [
            derive_seed(policy.global_rank, number)
            for number, group in enumerate(groups)
            for _ in group.samples
        ]
        everywhere = of_all_ranks((learned, simulated, contexts))
        columns = [[value for rank in everywhere for value in rank[i]] for i in range(3)]
        return Rewards(
            torch.tensor(columns[0], dtype=torch.float64),
            torch.tensor(columns[1], dtype=torch.float64),
            torch.tensor(columns[2]),
        )

    def _figures(self, rewards: Rewards) -> dict[str, float]:
        learned, simulated, contexts = rewards
        if not self._first:
            self._first = [f(x).item() for x in (learned, simulated) for f in (torch.mean, _spread)]
        (mean, std), (other_mean, other_std) = self._first[:2], self._first[2:]
        leads = (learned - mean) / std - (simulated - other_mean) / other_std
        return {
            "learned": learned.mean().item(),
            "simulated": simulated.mean().item(),
            "agreement": pairwise_accuracy(learned, simulated, contexts).item(),
            "gap": leads.mean().item(),
            "error": _error_by_context(leads, contexts),
        }

    def _warn(self, iteration: int, figures: dict[str, float], error: float) -> None:
        found = []
        if figures["gap"] - 2 * error > self.max_gap:
            found.append(
                f"the learned reward has risen {figures['gap']:.2f} (standard error {error:.2f}) "
                f"standard deviations more than the simulated one, above max_gap {self.max_gap:g}"
            )
        if figures["agreement"] < self.min_agreement:
            found.append(
                f"they order {figures['agreement']:.0%} of the pairs of a context alike, below "
                f"min_agreement {self.min_agreement:g}"
            )
        if found:
            warnings.warn(
                f"iteration {iteration}: learned and simulated reward part: {'; '.join(found)}",
                stacklevel=2,
            )

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"compared": self._compared, "first": list(self._first)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._compared, self._first = state_dict["compared"], list(state_dict["first"])


def _policy_module(module: LightningModule) -> PolicyModule:
    if not isinstance(module, PolicyModule):
        raise UserError(f"RewardDrift must watch a PolicyModule, got {type(module).__name__}")
    return module


def _spread(values: Tensor) -> Tensor:
    """Standard deviation; 1 where nothing varies."""
    std = values.std()
    return std if std > 0 else torch.ones_like(std)


def _error_by_context(leads: Tensor, contexts: Tensor) -> float:
    """Standard error of the mean, contexts being independent and their replies not."""
    _, member = contexts.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    counts = torch.bincount(member)
    means = torch.zeros(len(counts), dtype=leads.dtype).index_add(0, member, leads) / counts
    return means.std().item() / math.sqrt(len(counts)) if len(counts) > 1 else math.inf
