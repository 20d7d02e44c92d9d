"""Several judges in one conversation, each with the verdicts that it would have given alone."""

from collections.abc import Sequence
from dataclasses import replace

from rlff_lightning.agents.base import Critic
from rlff_lightning.types import Conversation, Episode, Verdict


class Panel(Critic):
    """Lets a conversation go on until every judge has seen the goal reached or given up.

    Players do not hear judges. So what was said up to a judge's first success or failure is what
    would have been said under that judge alone, and each judge's figures are exact from one play.

    Args:
        judges: At least one.
    """

    def __init__(self, judges: Sequence[Critic]) -> None:
        self.judges = list(judges)
        self._courses: dict[tuple[str, int], list[tuple[Verdict, ...]]] = {}

    @property
    def name(self) -> str:
        return " and ".join(judge.name for judge in self.judges)

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        columns = [judge.judge(conversations) for judge in self.judges]
        return [
            self._take(conversation, verdicts)
            for conversation, verdicts in zip(
                conversations, zip(*columns, strict=True), strict=True
            )
        ]

    def _take(self, conversation: Conversation, verdicts: tuple[Verdict, ...]) -> Verdict:
        course = self._courses.setdefault((conversation.id, conversation.seed), [])
        course.append(verdicts)
        is_over = all(_num_turns(column) is not None for column in self._columns(course))
        # A failure here would end the play for the other judges as well.
        return replace(verdicts[0], is_success=is_over, failure="")

    def courses(self, conversation: Conversation) -> list[list[Verdict]]:
        """Give every judge's verdicts on all turns that were played."""
        course = self._courses.get((conversation.id, conversation.seed), [])
        return self._columns(course) if course else [[] for _ in self.judges]

    @staticmethod
    def _columns(course: list[tuple[Verdict, ...]]) -> list[list[Verdict]]:
        return [list(column) for column in zip(*course, strict=True)]


def as_judged(episode: Episode, course: Sequence[Verdict]) -> Episode:
    """Cut a played episode where one judge first sees the goal reached, or gives up.

    Args:
        episode: As the panel let it be played.
        course: The judge's verdicts on the same turns.

    Returns:
        The episode as it would have ended under this judge alone.
    """
    turns = _num_turns(course)
    if turns is None:
        return Episode(conversation=episode.conversation, verdicts=tuple(course))
    # The opening, then a reply and an answer in every turn.
    kept = episode.conversation.messages[: 1 + 2 * turns]
    conversation = replace(episode.conversation, messages=kept)
    return Episode(conversation=conversation, verdicts=tuple(course[:turns]))


def _num_turns(course: Sequence[Verdict]) -> int | None:
    """Count the turns up to a judge's first success or failure."""
    ends = (turn for turn, verdict in enumerate(course, 1) if verdict.is_success or verdict.failure)
    return next(ends, None)
