"""Lets a judge rate every supporter's replies, and compare those of two in both orders."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from rlff_lightning.agents.reply_judge import DIMENSIONS, RATINGS, Rating, ReplyJudge
from rlff_lightning.functional.preferences import Preference
from rlff_lightning.metrics.judged import PairwisePreference, RatedReplies
from rlff_lightning.modules.quality_work import ContextWork
from rlff_lightning.types import Conversation, Message


class Compared(NamedTuple):
    """Two supporters' replies to every context, judged both ways."""

    first: str
    second: str
    straight: list[Preference | None]
    """Verdicts with the first supporter's reply shown first."""
    swapped: list[Preference | None]
    """Verdicts with the second supporter's reply shown first."""


class Judged(NamedTuple):
    """All that a judge said of one rank's replies."""

    ratings: dict[str, list[Rating]]
    """By supporter, in the order of the contexts."""
    comparisons: list[Compared]


def judge_replies(
    judge: ReplyJudge,
    contexts: Sequence[Conversation],
    replies: dict[str, list[Message]],
    comparisons: Sequence[tuple[str, str]],
    work: ContextWork,
) -> Judged:
    """Have all replies rated, and compared.

    A judge is not asked about a reply without a word: it has the lowest rating on every dimension,
    and any other reply is better.

    Args:
        judge: Judges.
        contexts: What was replied to, N.
        replies: N replies of each supporter.
        comparisons: Supporters to compare, two by two.
        work: Takes the contexts batch by batch.
    """

    def rate(name: str) -> list[Rating]:
        said = replies[name]
        return work.run(
            f"rating {name}",
            lambda batch: _rate(judge, _at(contexts, batch), _at(said, batch)),
            lambda index, row: not said[index].failure and None not in row.values(),
        )

    def prefer(first: str, second: str) -> list[Preference | None]:
        firsts, seconds = replies[first], replies[second]
        rows = work.run(
            f"comparing {first}, {second}",
            lambda batch: [
                {"preference": preference}
                for preference in _prefer(
                    judge, _at(contexts, batch), _at(firsts, batch), _at(seconds, batch)
                )
            ],
            lambda index, row: (
                not (firsts[index].failure or seconds[index].failure)
                and row["preference"] is not None
            ),
        )
        return [row["preference"] for row in rows]

    ratings = {name: rate(name) for name in replies}
    compared = [
        Compared(first, second, prefer(first, second), prefer(second, first))
        for first, second in comparisons
    ]
    return Judged(ratings, compared)


Item = TypeVar("Item")


def _at(items: Sequence[Item], places: Sequence[int]) -> list[Item]:
    return [items[place] for place in places]


def _rate(
    judge: ReplyJudge, contexts: Sequence[Conversation], replies: Sequence[Message]
) -> list[Rating]:
    lowest: Rating = dict.fromkeys(DIMENSIONS, int(RATINGS[0]))
    ratings = [lowest] * len(replies)
    asked = [place for place, reply in enumerate(replies) if _says(reply)]
    given = judge.rate([contexts[place] for place in asked], [replies[place] for place in asked])
    for place, rating in zip(asked, given, strict=True):
        ratings[place] = rating
    return ratings


def _prefer(
    judge: ReplyJudge,
    contexts: Sequence[Conversation],
    firsts: Sequence[Message],
    seconds: Sequence[Message],
) -> list[Preference | None]:
    found: list[Preference | None] = [
        "tie" if _says(first) == _says(second) else "first" if _says(first) else "second"
        for first, second in zip(firsts, seconds, strict=True)
    ]
    asked = [
        place
        for place, (first, second) in enumerate(zip(firsts, seconds, strict=True))
        if _says(first) and _says(second)
    ]
    given = judge.prefer(
        [contexts[place] for place in asked],
        [firsts[place] for place in asked],
        [seconds[place] for place in asked],
    )
    for place, preference in zip(asked, given, strict=True):
        found[place] = preference
    return found


def _says(reply: Message) -> bool:
    return bool(reply.text.strip())


def rating_figures(
    ratings: Sequence[Rating], dialogues: Tensor, device: torch.device
) -> dict[str, float]:
    """Average one supporter's ratings over all ranks."""
    rated = RatedReplies(DIMENSIONS).to(device)
    rated.update(ratings, dialogues)
    return rated.compute()


def comparison_figures(
    compared: Compared, dialogues: Tensor, device: torch.device
) -> dict[str, Any]:
    """Count one comparison over all ranks."""
    preference = PairwisePreference().to(device)
    preference.update(compared.straight, compared.swapped, dialogues)
    return {"first": compared.first, "second": compared.second, **preference.compute()}
