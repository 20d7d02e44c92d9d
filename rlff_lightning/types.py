"""Records that pass between stages: frozen, keyword-only, and checked where they are made."""

from dataclasses import dataclass
from typing import Literal

from rlff_lightning.errors import UserError

Role = Literal["seeker", "supporter"]
"""Who speaks: the person who looks for support, or the one who gives it."""

Outcome = Literal["worse", "same", "better", "solved", "unparsed"]
"""How the seeker fares after a turn, in a critic's words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One side's turn."""

    role: Role
    """Who said it."""
    text: str
    """What the other side reads; never the reasoning."""
    reasoning: str = ""
    """What a supporter thought before it replied."""
    strategy: str = ""
    """Gold or recognised support strategy of a supporter's message, as the source names it."""
    critic_answers: tuple[str, ...] = ()
    """Raw critic answers that the source gives for a seeker's message."""
    failure: str = ""
    """Why the speaker gave no answer after every retry; the conversation is broken off here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialogue:
    """A conversation from a file or a corpus, in the order it was held."""

    id: str
    """Unique within its source, e.g. ``esconv-17``."""
    messages: tuple[Message, ...]
    """All messages; one side may send several in a row."""
    situation: str = ""
    """The seeker's problem in a sentence or two."""
    problem: str = ""
    """The kind of problem, e.g. ``academic pressure``."""
    emotion: str = ""
    """The seeker's main emotion."""
    initial_intensity: int | None = None
    """Seeker's emotion intensity before, 1-5, where the source has it."""
    final_intensity: int | None = None
    """Seeker's emotion intensity after, 1-5, where the source has it."""
    is_failed: bool = False
    """The source says that this conversation did not help."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleCard:
    """A person for a seeker agent to play."""

    id: str
    """Unique within its source."""
    text: str
    """Who the person is and what troubles them, as the source words it."""
    fields: tuple[tuple[str, str], ...] = ()
    """Name and value pairs read from the text, e.g. ``("age", "27")``."""
    source: str = ""
    """The data set that the card was derived from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A conversation that agents carry on, and the context a policy replies to."""

    id: str
    """Unique within a run; names every random draw made for it."""
    messages: tuple[Message, ...]
    """What was said so far, oldest first."""
    situation: str = ""
    """The seeker's problem in a sentence or two."""
    problem: str = ""
    """The kind of problem."""
    persona: str = ""
    """Role card text for a seeker played by a language model."""
    source: str = ""
    """Id of the dialogue or person it stems from: data are split by it."""
    hidden: tuple[int, ...] = ()
    """State of a scripted seeker; opaque to all but the scripted world."""
    seed: int = 0
    """Root of every random draw made for this conversation."""

    @property
    def num_turns(self) -> int:
        """Supporter messages so far."""
        return sum(message.role == "supporter" for message in self.messages)

    @property
    def failure(self) -> str:
        """Why the latest speaker gave no answer; empty if it gave one."""
        return self.messages[-1].failure

    def __post_init__(self) -> None:
        if not self.messages:
            raise UserError(f"Conversation {self.id!r} must have a message, got none")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a critic makes of the seeker's latest message."""

    value: float
    """Mean value of the outcome, in [-1, 1]."""
    outcome: Outcome
    """The (most frequent) outcome."""
    is_success: bool
    """The goal is reached under the critic's rule."""
    answers: tuple[Outcome, ...] = ()
    """Every sampled answer, parsed; includes ``unparsed``."""
    failure: str = ""
    """Why the critic gave no verdict after every retry; the conversation is broken off here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """A self-played conversation with the critic's verdict on every seeker turn."""

    conversation: Conversation
    """The whole conversation; its first message opened it."""
    verdicts: tuple[Verdict, ...]
    """One per supporter turn."""

    @property
    def is_success(self) -> bool:
        """The last verdict is a success."""
        return bool(self.verdicts) and self.verdicts[-1].is_success

    @property
    def failure(self) -> str:
        """Why the conversation was broken off; empty if it was not."""
        verdict = self.verdicts[-1].failure if self.verdicts else ""
        return self.conversation.failure or verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Future:
    """One simulated continuation of a candidate reply."""

    values: tuple[float, ...]
    """Critic value of each seeker turn after the reply, in [-1, 1]."""
    is_success: bool
    """The goal was reached within the look-ahead."""
    messages: tuple[Message, ...]
    """What was said after the reply."""
    is_cut: bool = False
    """The conversation's last turn came, without success, before the look-ahead's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledReply:
    """A candidate reply in its context with its future-oriented reward."""

    context: Conversation
    """Ends with a seeker's message."""
    reply: Message
    """The candidate."""
    value: float
    """Future-oriented reward: mean over futures."""
    standard_error: float
    """Of that mean; 0 with fewer than two futures."""
    futures: tuple[Future, ...] = ()
    """Every trajectory behind the value."""
    origin: Literal["policy", "human", "proposer"] = "policy"
    """Who wrote the candidate."""
    failure: str = ""
    """Why one of its futures was broken off; the value then says nothing and is never stored."""
