"""Figures of reward models on labelled replies, with intervals over dialogues, and by slice."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlff_lightning.functional.calibration import reliability
from rlff_lightning.functional.ranking import pair_successes
from rlff_lightning.metrics.by_dialogue import RankCorrelation, mean_by_dialogue
from rlff_lightning.metrics.reward import RewardQuality
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import LabelledReply

Quality = dict[str, float]
"""Figures of one model by name."""

_TURNS = ((0, 2), (3, 5), (6, 9), (10, None))


def quality_of(records: Sequence[LabelledReply], scores: Tensor) -> Quality:
    """Measure scores of labelled replies.

    Args:
        records: N labelled replies.
        scores: Predicted rewards, ``(N,)``.

    Returns:
        What ``RewardQuality`` gives, with the ends of 95 % intervals over dialogues of
        ``spearman``, ``mse`` and ``pairwise_accuracy`` as ``NAME_low`` and ``NAME_high``.
    """
    labels = _labels(records)
    contexts = torch.tensor([derive_seed(record.context.id) for record in records])
    dialogues = torch.tensor([derive_seed(record.context.source) for record in records])
    # The rank that asks holds all replies, and others may not ask: nothing is gathered.
    quality = RewardQuality(sync_on_compute=False)
    correlation = RankCorrelation(sync_on_compute=False)
    errors = torch.tensor([record.standard_error for record in records])
    quality.update(scores, labels, errors, contexts)
    correlation.update(scores, labels, dialogues)
    figures = quality.compute() | correlation.compute().named("spearman")
    figures |= mean_by_dialogue((scores - labels) ** 2, dialogues).named("mse")
    successes, better = pair_successes(scores, labels, contexts)
    if len(successes):
        figures |= mean_by_dialogue(successes, dialogues[better]).named("pairwise_accuracy")
    return figures


def slices_of(records: Sequence[LabelledReply], scores: Tensor) -> dict[str, dict[str, Quality]]:
    """Measure scores by the turn they are for and by the kind of problem.

    Args:
        records: N labelled replies.
        scores: Predicted rewards, ``(N,)``.

    Returns:
        ``turn`` and ``problem``, each with the figures of every slice that has replies, and
        their number as ``replies``.
    """
    return {
        "turn": _by(_turns_of, records, scores),
        "problem": _by(lambda record: record.context.problem or "unknown", records, scores),
    }


def reliability_of(records: Sequence[LabelledReply], scores: Tensor) -> list[dict[str, float]]:
    """Give the points of a reliability plot: mean score and mean label of similar scores."""
    points = reliability(scores, _labels(records))
    return [
        {"predicted": predicted, "observed": observed, "replies": count}
        for predicted, observed, count in zip(*(x.tolist() for x in points), strict=True)
    ]


def _by(
    name_of: Callable[[LabelledReply], str], records: Sequence[LabelledReply], scores: Tensor
) -> dict[str, Quality]:
    names = [name_of(record) for record in records]
    slices = {}
    for name in sorted(set(names)):
        rows = [row for row, other in enumerate(names) if other == name]
        chosen = [records[row] for row in rows]
        slices[name] = quality_of(chosen, scores[rows]) | {"replies": float(len(rows))}
    return slices


def _turns_of(record: LabelledReply) -> str:
    turn = record.context.num_turns
    for first, last in _TURNS:
        if last is None or turn <= last:
            return f"{first:02d}+" if last is None else f"{first:02d}-{last:02d}"
    raise AssertionError


def _labels(records: Sequence[LabelledReply]) -> Tensor:
    return torch.tensor([record.value for record in records])
