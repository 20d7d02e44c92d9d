"""The scripted seeker and the critic that reads its hidden change."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from rlff_lightning.agents.base import Critic, Seeker
from rlff_lightning.agents.scripted import phrases
from rlff_lightning.agents.scripted.acts import read_reply
from rlff_lightning.agents.scripted.dynamics import (
    OPENINGS,
    Change,
    Mind,
    Temperament,
    transitions,
)
from rlff_lightning.agents.scripted.wording import fill, word_mind
from rlff_lightning.errors import UserError
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation, Message, Verdict

_CHANGES: tuple[Change, ...] = ("worse", "same", "better", "solved")
_VALUES: dict[Change, float] = {"worse": -1.0, "same": -0.5, "better": 0.5, "solved": 1.0}


def pack(mind: Mind, topic: int, change: Change = "same") -> tuple[int, ...]:
    """Write a hidden state as a conversation carries it: mind, topic, last change."""
    return (*mind, topic, _CHANGES.index(change))


def mind_of(conversation: Conversation) -> Mind:
    """Read the hidden mind of a scripted conversation."""
    _require_scripted(conversation)
    return Mind(*conversation.hidden[:4])


def topic_of(conversation: Conversation) -> str:
    """Read the topic of a scripted conversation."""
    _require_scripted(conversation)
    return phrases.TOPICS[conversation.hidden[4]]


def _require_scripted(conversation: Conversation) -> None:
    if len(conversation.hidden) != 6:
        raise UserError(
            f"Conversation {conversation.id!r} has no scripted seeker behind it; scripted agents "
            "only talk to conversations that ScriptedSeeker opened"
        )


class ScriptedSeeker(Seeker):
    """A finite-state person who explores, needs comfort, and only then takes advice.

    Args:
        temperament: Resistance, disclosure, patience and noise.
    """

    def __init__(self, temperament: Temperament | None = None) -> None:
        self.temperament = temperament or Temperament()

    is_concurrent = True

    def open(self, seeds: Sequence[int]) -> list[Conversation]:
        return [self._open(seed) for seed in seeds]

    def _open(self, seed: int) -> Conversation:
        draw = Random(derive_seed(seed, "open"))
        weights = [weight for weight, _ in OPENINGS]
        mind = draw.choices([mind for _, mind in OPENINGS], weights)[0]
        topic = draw.randrange(len(phrases.TOPICS))
        name = phrases.TOPICS[topic]
        text = word_mind(mind, name, self.temperament, draw)
        return Conversation(
            id=f"scripted-{seed}",
            source=f"scripted-{seed}",
            messages=(Message(role="seeker", text=text),),
            situation=phrases.SITUATION.format(topic=name),
            problem=name,
            hidden=pack(mind, topic),
            seed=seed,
        )

    def answer(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        return [self._answer(conversation) for conversation in conversations]

    def _answer(self, conversation: Conversation) -> Conversation:
        mind, topic = mind_of(conversation), topic_of(conversation)
        draw = Random(derive_seed(conversation.seed, "seeker", conversation.num_turns))
        reading = read_reply(conversation.messages[-1].text)
        outcomes = transitions(mind, reading.act, reading.topics == {topic}, self.temperament)
        outcome = draw.choices(outcomes, [option.probability for option in outcomes])[0]
        if outcome.change == "solved":
            text = fill(draw.choice(phrases.SOLVED), topic, draw)
        else:
            text = word_mind(outcome.mind, topic, self.temperament, draw)
        return replace(
            conversation,
            messages=(*conversation.messages, Message(role="seeker", text=text)),
            hidden=pack(outcome.mind, conversation.hidden[4], outcome.change),
        )


class ScriptedCritic(Critic):
    """Reads the scripted seeker's hidden change; solved is success, as under PPDPP's values."""

    is_concurrent = True

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        return [self._judge(conversation) for conversation in conversations]

    def _judge(self, conversation: Conversation) -> Verdict:
        _require_scripted(conversation)
        outcome = _CHANGES[conversation.hidden[5]]
        return Verdict(
            value=_VALUES[outcome],
            outcome=outcome,
            is_success=outcome == "solved",
            answers=(outcome,),
        )

    @property
    def name(self) -> str:
        return "scripted (hidden change; worse -1, same -0.5, better 0.5, solved 1; > 0.5)"
