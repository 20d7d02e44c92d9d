"""A linear head solved by ridge regression before the first step of fine-tuning."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from torch import Tensor

from rlff_lightning.errors import UserError


class SolvedHead(NamedTuple):
    """A linear head of one output."""

    weight: Tensor
    """``(D,)``."""
    bias: Tensor
    """Scalar."""
    alpha: float
    """The penalty chosen."""


@dataclass(frozen=True, kw_only=True)
class RidgeProbe:
    """Solve the head for the trunk's first states, so that fine-tuning does not distort them.

    ``argmin_w,b sum (w x + b - y)^2 + alpha |w|^2``, alpha by cross-validation over dialogues.

    Source: Kumar et al. 2022, arXiv:2202.10054 (linear probing, then fine-tuning).

    Args:
        alphas: Penalties to choose from, per unit of the states' squared entries.
        folds: Folds of the choice, by dialogue.
    """

    alphas: list[float] = field(
        default_factory=lambda: [30.0, 100.0, 300.0, 1e3, 2e3, 4e3, 8e3, 1.6e4]
    )
    folds: int = 5

    def __post_init__(self) -> None:
        if not self.alphas or min(self.alphas) <= 0:
            raise UserError(f"RidgeProbe.alphas must be above 0, got {self.alphas!r}")
        if self.folds < 2:
            raise UserError(f"RidgeProbe.folds must be at least 2, got {self.folds!r}")

    def solve(self, states: Tensor, targets: Tensor, groups: Tensor) -> SolvedHead:
        """Find the weights of one head that fit best.

        Args:
            states: What it reads, ``(N, D)``.
            targets: What it should predict, ``(N,)``.
            groups: Dialogue of each row, ``(N,)``, int; never in two folds.

        Raises:
            UserError: If all rows are of one dialogue.
        """
        clusters = groups.numpy()
        folds = min(self.folds, len(np.unique(clusters)))
        if folds < 2:
            raise UserError("RidgeProbe needs the replies of two dialogues, got one")
        search = GridSearchCV(
            Ridge(), {"alpha": self.alphas}, cv=GroupKFold(folds), scoring="neg_mean_squared_error"
        )
        search.fit(states.double().numpy(), targets.double().numpy(), groups=clusters)
        found = search.best_estimator_
        return SolvedHead(
            weight=torch.as_tensor(found.coef_).float(),
            bias=torch.as_tensor(found.intercept_).float(),
            alpha=float(search.best_params_["alpha"]),
        )
