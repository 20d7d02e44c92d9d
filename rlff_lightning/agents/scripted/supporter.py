"""Scripted supporters: the corpus' authors, and the yardsticks of the world."""

from abc import abstractmethod
from collections.abc import Sequence
from random import Random

from rlff_lightning.agents.base import Supporter
from rlff_lightning.agents.scripted.dynamics import ACTS, Act, Mind, Temperament, is_ready
from rlff_lightning.agents.scripted.optimum import plan
from rlff_lightning.agents.scripted.phrases import TOPICS
from rlff_lightning.agents.scripted.seeker import mind_of, topic_of
from rlff_lightning.agents.scripted.wording import word_reply, word_thought
from rlff_lightning.errors import UserError
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation, Message


class ScriptedSupporter(Supporter):
    """Chooses an act from the hidden state and words it."""

    topic_accuracy = 1.0
    """Probability that a reply that names a problem names the right one."""

    is_concurrent = True

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        return [self._reply(conversation) for conversation in conversations]

    def _reply(self, conversation: Conversation) -> Message:
        draw = Random(derive_seed(conversation.seed, "supporter", conversation.num_turns))
        mind, topic = mind_of(conversation), topic_of(conversation)
        act = self.choose(mind, conversation.num_turns, draw)
        if draw.random() >= self.topic_accuracy:
            topic = draw.choice(TOPICS)
        return Message(
            role="supporter",
            text=word_reply(act, topic, draw),
            reasoning=word_thought(mind, act),
            strategy=act,
        )

    @abstractmethod
    def choose(self, mind: Mind, turn: int, draw: Random) -> Act:
        """Choose an act; ``turn`` counts the supporter's earlier messages."""


class MixedSupporter(ScriptedSupporter):
    """The author of the corpus: fits the stage, acts at random, or rushes to advice.

    Helpers who are not trained give advice as soon as they hear what the problem is. So does the
    corpus: at that point, what it does most often is not what helps.

    Args:
        skill: Probability of an act that fits the stage, 0 to 1; the rest goes to a random act.
        haste: Probability of advice as soon as the problem is named, before it is explored.
        topic_accuracy: Probability that a reply that names a problem names the right one.
    """

    def __init__(self, skill: float = 0.6, haste: float = 0.5, topic_accuracy: float = 0.9) -> None:
        for name, share in (("skill", skill), ("haste", haste), ("topic_accuracy", topic_accuracy)):
            if not 0 <= share <= 1:
                raise UserError(f"MixedSupporter.{name} must be within [0, 1], got {share!r}")
        self.skill = skill
        self.haste = haste
        self.topic_accuracy = topic_accuracy

    def choose(self, mind: Mind, turn: int, draw: Random) -> Act:
        if mind.explored == 1 and draw.random() < self.haste:
            return "suggest"
        return draw.choice(_fitting(mind) if draw.random() < self.skill else ACTS)


class OptimalSupporter(ScriptedSupporter):
    """Sees the hidden state and acts optimally: the ceiling for every policy.

    Args:
        max_turns: Supporter turns of an episode.
        temperament: The seeker's, which the plan is made for.
    """

    def __init__(self, max_turns: int = 8, temperament: Temperament | None = None) -> None:
        self.plan = plan(max_turns, temperament)
        self.max_turns = max_turns

    def choose(self, mind: Mind, turn: int, draw: Random) -> Act:
        return self.plan.acts[max(self.max_turns - turn, 1) - 1][mind]


def _fitting(mind: Mind) -> tuple[Act, ...]:
    """Acts of the helping stage that a mind is in: exploration, comforting or action."""
    if is_ready(mind):
        return ("suggest",)
    if mind.explored == 0:
        return ("question",)
    if mind.explored == 1:
        return ("question", "question", "restate")
    return ("reflect", "reflect", "reassure")
