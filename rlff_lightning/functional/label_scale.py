"""How labels become targets of a regression, and its predictions rewards again."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rlff_lightning.errors import UserError

LabelKind = Literal["values", "ranks"]
"""What is predicted: a label's value, or its rank among the training labels."""


class LabelScale(NamedTuple):
    """A transform of labels into targets t, and the line ``mean + unit t`` back to rewards."""

    mean: float
    """Reward of a target of 0."""
    unit: float
    """Reward per unit of the target, above 0."""
    ordered: Tensor
    """Training labels in order, ``(N,)``, for ranks; empty for values."""

    def targets(self, labels: Tensor) -> Tensor:
        """Turn labels, ``(B,)``, into targets of about mean 0 and variance 1."""
        if not len(self.ordered):
            return (labels - self.mean) / self.unit
        sides = [torch.searchsorted(self.ordered, labels, right=right) for right in (False, True)]
        share = (sides[0] + sides[1]).double() / (2 * len(self.ordered))
        return ((share - 0.5) * 12**0.5).to(labels)


def fit_label_scale(labels: Tensor, kind: LabelKind) -> LabelScale:
    """Take the scale from the training labels.

    values  t = (y - mean) / std
    ranks   t = (rank(y) / N - 1/2) sqrt(12), uniform with variance 1;  unit = cov(y, t) / var(t)

    A few extreme labels pull a squared error about; their ranks do not. Predictions of ranks are
    led back to rewards by the best line.

    Args:
        labels: Training labels, ``(N,)``.
        kind: What is predicted.

    Returns:
        The scale; labels that are all equal have the unit 1.

    Raises:
        UserError: If there is no label.

    Source: Conover & Iman 1981, Am. Stat. 35(3) (the rank transform).
    """
    if not len(labels):
        raise UserError("labels must not be empty, got none to take a scale from")
    exact = labels.double()
    mean = exact.mean().item()
    if kind == "values":
        std = exact.std().item() if len(exact) > 1 else 0.0
        return LabelScale(mean, std if std > 0 else 1.0, labels.new_empty(0))
    ranked = LabelScale(mean, 1.0, labels.sort().values)
    targets = ranked.targets(labels).double()
    variance = targets.square().mean().item()
    if variance == 0:
        return ranked
    return ranked._replace(unit=(targets * (exact - mean)).mean().item() / variance)
