"""What a reward model minimises, as one key of a config; see ``reward_objective`` for the mean."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax, logsigmoid

from rlff_lightning.errors import UserError
from rlff_lightning.functional.outcomes import outcome_shares
from rlff_lightning.functional.ranking import ranked_pairs
from rlff_lightning.functional.reward_objective import RewardLabels, RewardLoss, Target


@dataclass(frozen=True, kw_only=True, slots=True)
class Regression(RewardLoss):
    """Squared error to the label's target: l = (o - t)^2, see ``label_scale``.

    Args:
        error_scale: Standard error at which a label counts half, in the labels' unit:
            w = 1 / (1 + (se / error_scale)^2); ``null`` counts all alike.
    """

    error_scale: float | None = None

    def __post_init__(self) -> None:
        if self.error_scale is not None and not self.error_scale > 0:
            raise UserError(f"Regression.error_scale must be above 0, got {self.error_scale!r}")

    def rows(self, outputs: Tensor, labels: RewardLabels) -> Tensor:
        return (outputs[:, 0] - labels.targets) ** 2

    def weights(self, labels: RewardLabels) -> Tensor:
        if self.error_scale is None:
            return torch.ones_like(labels.values)
        return 1 / (1 + (labels.standard_errors / self.error_scale) ** 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class OutcomeClassification(RewardLoss):
    """Cross-entropy to the shares of the critic's outcomes; the reward is their expected value.

    l = -sum_c q_c log softmax(o)_c, with q from ``outcome_shares``, so that sum_c q_c v_c = y

    Args:
        class_values: Value of each outcome, ascending; all labels lie between the ends.

    Source: Farebrother et al. 2024, arXiv:2403.03950 (values by classification).
    """

    target: ClassVar[Target] = "outcomes"
    class_values: tuple[float, ...] = (-1.0, -0.5, 0.5, 1.0)

    def __post_init__(self) -> None:
        values = self.class_values
        if len(values) < 2 or any(low >= high for low, high in pairwise(values)):
            raise UserError(
                "OutcomeClassification.class_values must be two or more, ascending, got "
                f"{list(values)}"
            )

    def rows(self, outputs: Tensor, labels: RewardLabels) -> Tensor:
        classes = outputs.new_tensor(self.class_values)
        shares = outcome_shares(labels.values, labels.turn_values, labels.turn_mask, classes)
        return -(shares * log_softmax(outputs, dim=-1)).sum(-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class PositiveClassification(RewardLoss):
    """Cross-entropy to the label's being positive; the reward is P(positive).

    l = -p log sigmoid(o) - (1 - p) log sigmoid(-o),  p = Phi((y - threshold) / se)

    Args:
        threshold: Labels above it are positive; an uncertain label near it is partly so.
    """

    target: ClassVar[Target] = "binary"
    threshold: float = 0.0

    def rows(self, outputs: Tensor, labels: RewardLabels) -> Tensor:
        gaps = labels.values - self.threshold
        # Without uncertainty p is 0 or 1, and a label on the threshold is half positive.
        sharp = (gaps.sign() + 1) / 2
        errors = labels.standard_errors
        soft = torch.special.ndtr(gaps / torch.where(errors > 0, errors, 1.0))
        positive = torch.where(errors > 0, soft, sharp)
        return binary_cross_entropy_with_logits(outputs[:, 0], positive, reduction="none")


@dataclass(frozen=True, kw_only=True, slots=True)
class PairwiseRanking(RewardLoss):
    """Rank the candidates of one context by Bradley-Terry; what GRPO uses of a reward.

    l_pair = -log sigmoid(o_better - o_worse - margin (t_better - t_worse))

    A context's loss is the mean over its pairs of unequal labels, and counts once per candidate.

    Args:
        margin: Share of the targets' gap by which scores should differ at least.
        anchor: Weight of the squared error to the label's target, which gives the scores
            the labels' level and unit; 0 leaves them undefined up to a constant.

    Source: Bradley & Terry 1952, Biometrika 39; Touvron et al. 2023, arXiv:2307.09288, eq. 2
        (margin); Ouyang et al. 2022, arXiv:2203.02155, eq. 1 (mean over a context's pairs).
    """

    needs_siblings: ClassVar[bool] = True
    margin: float = 0.0
    anchor: float = 0.01

    def __post_init__(self) -> None:
        for name in ("margin", "anchor"):
            if not getattr(self, name) >= 0:
                raise UserError(
                    f"PairwiseRanking.{name} must be at least 0, got {getattr(self, name)!r}"
                )

    def rows(self, outputs: Tensor, labels: RewardLabels) -> Tensor:
        scores, targets = outputs[:, 0], labels.targets
        better, worse = ranked_pairs(labels.values, labels.context_ids)
        gaps = scores[better] - scores[worse] - self.margin * (targets[better] - targets[worse])
        _, members, sizes = labels.context_ids.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
        context = members[better]
        num_pairs = torch.bincount(context, minlength=len(sizes))
        # Half of a pair's loss is each candidate's, so that rows add up to contexts.
        shares = -logsigmoid(gaps) * (sizes / num_pairs.clamp(min=1))[context] / 2
        ranked = torch.zeros_like(scores)
        ranked = ranked.index_add(0, better, shares).index_add(0, worse, shares)
        return ranked + self.anchor * (scores - targets) ** 2
