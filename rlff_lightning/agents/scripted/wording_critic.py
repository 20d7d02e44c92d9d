"""A second judge for the scripted world, who only hears what is said."""

from collections.abc import Sequence
from typing import Literal

from rlff_lightning.agents.base import Critic
from rlff_lightning.agents.scripted import phrases
from rlff_lightning.types import Conversation, Outcome, Verdict

_VALUES: dict[Outcome, float] = {"worse": -1.0, "same": -0.5, "better": 0.5, "solved": 1.0}
_SOLVED = ("i feel at peace", "is no longer a problem")


class WordingCritic(Critic):
    """Compares the distress in the seeker's words with that of their message before.

    Where a message does not show it, the last one that did counts. It cannot see what
    ``ScriptedCritic`` sees, so the two differ on turns; with ``relief`` also on success.

    Args:
        goal: ``solved`` for the words of a solved problem; ``relief`` also where the words tell of
            the lowest distress.
    """

    def __init__(self, goal: Literal["solved", "relief"] = "solved") -> None:
        self.goal = goal

    is_concurrent = True

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        return [self._judge(conversation) for conversation in conversations]

    def _judge(self, conversation: Conversation) -> Verdict:
        said = [message.text for message in conversation.messages if message.role == "seeker"]
        levels = [level for level in map(_distress, said[:-1]) if level is not None]
        before, now = (levels[-1] if levels else None), _distress(said[-1])
        outcome: Outcome = "same"
        if any(words in said[-1].lower() for words in _SOLVED):
            outcome = "solved"
        elif before is not None and now is not None and now != before:
            outcome = "better" if now < before else "worse"
        is_success = outcome == "solved" or (self.goal == "relief" and now == 1)
        return Verdict(
            value=_VALUES[outcome], outcome=outcome, is_success=is_success, answers=(outcome,)
        )

    @property
    def name(self) -> str:
        return f"scripted wording (distress in words; success at {self.goal})"


def _distress(text: str) -> int | None:
    shown = [level for level, cues in phrases.DISTRESS.items() if any(cue in text for cue in cues)]
    return shown[0] if shown else None
