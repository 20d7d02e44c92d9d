"""Labelled replies as tensors for the reward model."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlff_lightning.dialogue.reward_format import RewardFormat
from rlff_lightning.functional.label_scale import LabelScale
from rlff_lightning.functional.reward_objective import RewardLabels
from rlff_lightning.metrics.scored import Scored
from rlff_lightning.models.reward_head import RewardModel, Texts
from rlff_lightning.rollout.experience import pad
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import LabelledReply


class RewardBatch(NamedTuple):
    """Contexts with all their replies. N contexts, G replies each, B = N * G rows."""

    contexts: Texts
    """Left-padded, N rows."""
    latest: Texts | None
    """The message that each context ends with, N rows; ``None`` for a head that reads one text."""
    replies: Texts
    """Right-padded, siblings adjacent, B rows."""
    is_counted: Tensor
    """``False`` for the copies that fill up a context with fewer replies, ``(B,)``."""
    places: Tensor
    """Which record each of the M counted replies is, ``(M,)``, int64; -1 where nobody asks."""
    labels: RewardLabels
    """Of the M counted replies, in order."""


Places = Mapping[tuple[str, str], int]
"""Number of a record, by its context's id and its reply's text."""


def places_of(records: Sequence[LabelledReply]) -> dict[tuple[str, str], int]:
    """Number records; equal replies to one context, which must score alike, share the first's."""
    places: dict[tuple[str, str], int] = {}
    for number, record in enumerate(records):
        places.setdefault(_key(record), number)
    return places


def reward_batch(
    groups: Sequence[Sequence[LabelledReply]],
    shown: RewardFormat,
    model: RewardModel,
    *,
    scale: LabelScale | None = None,
    places: Places | None = None,
) -> RewardBatch:
    """Tokenise contexts with their replies as the model's head reads them.

    Args:
        groups: The replies of each context, at least one.
        shown: How they are written for the model.
        model: Says what its head reads.
        scale: Of the labels; by default the one that the model was trained with, without ranks.
        places: Numbers of the records, where their scores are to be told apart.
    """
    size = max(len(group) for group in groups)
    filled = [[*group, *[group[0]] * (size - len(group))] for group in groups]
    counted = [place < len(group) for group in groups for place in range(size)]
    records = [record for group in groups for record in group]
    rows = [record for group in filled for record in group]
    latest = None
    if model.settings.reads == "apart":
        three = [shown.apart(record.context, record.reply) for record in rows]
        contexts = [told for told, _, _ in three[::size]]
        latest = Texts(*pad([heard for _, heard, _ in three[::size]]))
        replies = [said for _, _, said in three]
    else:
        contexts, replies = _joined([shown.parts(r.context, r.reply) for r in rows], size)
    return RewardBatch(
        contexts=Texts(*pad(contexts, left=True)),
        latest=latest,
        replies=Texts(*pad(replies)),
        is_counted=torch.tensor(counted),
        places=torch.tensor([(places or {}).get(_key(r), -1) for r in records]),
        labels=_labels(records, scale or model_scale(model)),
    )


def predict(model: RewardModel, batch: RewardBatch) -> Tensor:
    """Give the head's outputs for the counted replies, ``(M, num_outputs)``."""
    if batch.latest is not None:
        outputs = model.forward_apart(batch.contexts, batch.latest, batch.replies)
    elif model.shares_prompts:
        outputs = model.forward_groups(*batch.contexts, *batch.replies)
    else:
        outputs = model(*_whole(batch))
    return outputs[batch.is_counted]


def head_states(model: RewardModel, batch: RewardBatch) -> Tensor:
    """Give what the head reads of the counted replies, ``(M, D)``."""
    if batch.latest is not None:
        states = model.states_apart(batch.contexts, batch.latest, batch.replies)
    else:
        states = model.embed(*_whole(batch))
    return states[batch.is_counted]


def _whole(batch: RewardBatch) -> Texts:
    """Write every reply behind its context."""
    size = len(batch.replies.ids) // len(batch.contexts.ids)
    before = (side.repeat_interleave(size, dim=0) for side in batch.contexts)
    return Texts(*(torch.cat(pair, 1) for pair in zip(before, batch.replies, strict=True)))


def align(
    records: Sequence[LabelledReply], places: Places, scored: Scored
) -> tuple[list[LabelledReply], Tensor]:
    """Give the records that were scored, and their scores, ``(N,)``."""
    score_of = dict(zip(scored.places.tolist(), scored.scores.tolist(), strict=True))
    found = [record for record in records if places[_key(record)] in score_of]
    return found, torch.tensor([score_of[places[_key(record)]] for record in found])


def _key(record: LabelledReply) -> tuple[str, str]:
    return record.context.id, record.reply.text


def _joined(
    parts: list[tuple[list[int], list[int]]], size: int
) -> tuple[list[list[int]], list[list[int]]]:
    shared = [before for before, _ in parts[::size]]
    is_shared = all(before == shared[row // size] for row, (before, _) in enumerate(parts))
    if is_shared and all(said for _, said in parts):
        return shared, [said for _, said in parts]
    # A context was cut for a long reply, or an encoder reads both sides at once.
    whole = [[*before, *said] for before, said in parts]
    return [ids[:-1] for ids in whole], [ids[-1:] for ids in whole]


def model_scale(model: RewardModel) -> LabelScale:
    """Give the line that a model turns predictions into rewards by."""
    return LabelScale(model.label_mean, model.label_std, torch.empty(0))


def _labels(records: Sequence[LabelledReply], scale: LabelScale) -> RewardLabels:
    courses = [[v for future in record.futures for v in future.values] for record in records]
    turns = max(map(len, courses))
    values = torch.tensor([record.value for record in records])
    return RewardLabels(
        values=values,
        standard_errors=torch.tensor([record.standard_error for record in records]),
        context_ids=torch.tensor([derive_seed(record.context.id) for record in records]),
        turn_values=torch.tensor([[*c, *[0.0] * (turns - len(c))] for c in courses]),
        turn_mask=torch.tensor([[n < len(c) for n in range(turns)] for c in courses]).bool(),
        targets=scale.targets(values),
    )
