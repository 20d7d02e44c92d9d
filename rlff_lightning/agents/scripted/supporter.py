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
    """The author of the corpus: acts as the stage asks, rushes to advice, or acts at random.

    Helpers who are not trained give advice too early, and so does the corpus: what it does most
    often is not what helps.

    Args:
        skill: Probability of an act that fits the stage, 0 to 1.
        haste: Probability of advice whatever the stage; ``skill + haste`` is at most 1, and the
            rest goes to a random act.
        topic_accuracy: Probability that a reply names the right problem.
    """

    def __init__(
        self, skill: float = 0.35, haste: float = 0.35, topic_accuracy: float = 0.9
    ) -> None:
        if min(skill, haste) < 0 or skill + haste > 1:
            raise UserError(
                "MixedSupporter.skill and haste must be at least 0 and sum to at most 1, got "
                f"{skill!r} and {haste!r}"
            )
        self.skill = skill
        self.haste = haste
        self.topic_accuracy = topic_accuracy

    def choose(self, mind: Mind, turn: int, draw: Random) -> Act:
        mood = draw.random()
        if mood < self.skill:
            return draw.choice(_fitting(mind))
        return "suggest" if mood < self.skill + self.haste else draw.choice(ACTS)


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
