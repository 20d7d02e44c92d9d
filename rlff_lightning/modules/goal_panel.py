"""Several judges in one conversation, each with the verdicts that it would have given alone."""

from collections.abc import Sequence
from dataclasses import replace

from rlff_lightning.agents.base import Critic
from rlff_lightning.types import Conversation, Episode, Verdict


class Panel(Critic):
    """Lets a conversation go on until every judge has seen the goal reached, or the turns end.

    Players do not hear judges. So what was said up to a judge's first success is what would have
    been said under that judge alone, and each judge's figures are exact from one play.

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
        is_over = all(any(turn.is_success for turn in column) for column in self._columns(course))
        failures = [verdict.failure for verdict in verdicts if verdict.failure]
        return replace(verdicts[0], is_success=is_over, failure=failures[0] if failures else "")

    def courses(self, conversation: Conversation) -> list[list[Verdict]]:
        """Give every judge's verdicts on all turns that were played."""
        course = self._courses.get((conversation.id, conversation.seed), [])
        return self._columns(course) if course else [[] for _ in self.judges]

    @staticmethod
    def _columns(course: list[tuple[Verdict, ...]]) -> list[list[Verdict]]:
        return [list(column) for column in zip(*course, strict=True)]


def as_judged(episode: Episode, course: Sequence[Verdict]) -> Episode:
    """Cut a played episode where one judge's course first sees the goal reached.

    Args:
        episode: As the panel let it be played; one verdict per turn.
        course: The judge's verdicts on the same turns.

    Returns:
        The episode as it would have ended under this judge alone.
    """
    solved = [turn for turn, verdict in enumerate(course, start=1) if verdict.is_success]
    if not solved or solved[0] == len(course):
        return Episode(conversation=episode.conversation, verdicts=tuple(course))
    messages = episode.conversation.messages
    # A turn is a reply and an answer.
    kept = messages[: len(messages) - 2 * (len(course) - solved[0])]
    conversation = replace(episode.conversation, messages=kept)
    return Episode(conversation=conversation, verdicts=tuple(course[: solved[0]]))
