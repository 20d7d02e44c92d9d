"""A seeker played by a chat model: a person from a role card or a dialogue, with temper to set."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Literal, get_args

from rlff_lightning.agents.base import Seeker
from rlff_lightning.agents.people import Person, people_digest, read_people
from rlff_lightning.agents.prompt_files import load_prompt
from rlff_lightning.agents.speaking import Speaker
from rlff_lightning.engines.chat_model import Chat, ChatModel, ChatSampling
from rlff_lightning.errors import UserError
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation, Message

Level = Literal["low", "medium", "high", "varied"]
"""How much of a trait; ``varied`` draws one of the others for each person."""

_LEVELS = ("low", "medium", "high")


@dataclass(frozen=True, kw_only=True, slots=True)
class SeekerKnobs:
    """Temper of the people. Language models left alone are too easy to help (arXiv:2603.11245).

    Args:
        engagement: How much they take part.
        resistance: How hard it is to win them over.
        expression: How openly they show feelings.
        disclosure: How much they tell unasked.

    Source: the four traits of arXiv:2605.28228.
    """

    engagement: Level = "medium"
    resistance: Level = "medium"
    expression: Level = "medium"
    disclosure: Level = "medium"

    def of(self, person: str) -> dict[str, str]:
        """Settle the levels for one person, always the same ones.

        Args:
            person: Who it is; names the draw of what is varied.
        """
        return {
            trait: level
            if level in _LEVELS
            else Random(derive_seed("knob", trait, person)).choice(_LEVELS)
            for trait, level in asdict(self).items()
        }

    def __post_init__(self) -> None:
        for trait, level in asdict(self).items():
            if level not in get_args(Level):
                raise UserError(
                    f"SeekerKnobs.{trait} must be one of {', '.join(get_args(Level))}, "
                    f"got {level!r}"
                )


class LanguageModelSeeker(Seeker):
    """Plays people with a chat model; all conversations in one call.

    A conversation that it did not open is carried on with its ``persona``, or its ``situation``.

    Args:
        model: Plays the people.
        people: File, files or folder of role cards or dialogues whose people open conversations;
            ``None`` if conversations come from elsewhere.
        knobs: Their temper.
        temperature: 0 is greedy.
        max_tokens: Limit of a message.
        language: Of the prompt.
        prompts: Folder with a prompt of your own, ``seeker.<language>.jinja``; ``None`` takes the
            shipped one.
        max_empty_retries: How often an empty message is asked for again before the conversation
            is broken off.
    """

    def __init__(
        self,
        model: ChatModel,
        people: str | list[str] | None = None,
        knobs: SeekerKnobs | None = None,
        temperature: float = 0.7,
        max_tokens: int = 128,
        language: str = "en",
        prompts: str | None = None,
        max_empty_retries: int = 3,
    ) -> None:
        self.model = model
        self.knobs = knobs or SeekerKnobs()
        self.prompt = load_prompt("seeker", language, prompts)
        self.people = read_people(people) if people is not None else []
        self.fingerprint = f"{self.prompt.label}; people {people_digest(self.people)}"
        self.sampling = ChatSampling(temperature=temperature, max_tokens=max_tokens)
        self._speaker = Speaker(model, "seeker", self.prompt, self.sampling, max_empty_retries)

    @property
    def name(self) -> str:
        """Model, prompt and temper, as results may state them."""
        temper = ", ".join(f"{trait} {level}" for trait, level in asdict(self.knobs).items())
        return f"{self.model.name}; {self.prompt.label}; {temper}"

    @property
    def is_concurrent(self) -> bool:
        return self.model.is_concurrent

    def open(self, seeds: Sequence[int]) -> list[Conversation]:
        if not self.people:
            raise UserError(
                "LanguageModelSeeker.people must name role cards or dialogues to open "
                "conversations, got none"
            )
        chosen = [Random(derive_seed(seed, "person")).choice(self.people) for seed in seeds]
        silent = [place for place, person in enumerate(chosen) if not person.opening]
        chats = [self._opening_chat(chosen[place], seeds[place]) for place in silent]
        written = dict(zip(silent, self._speak(chats), strict=True))
        return [
            Conversation(
                id=f"{person.id}-{seed}",
                source=person.id,
                messages=(written.get(place) or Message(role="seeker", text=person.opening),),
                persona=person.persona,
                situation=person.situation,
                problem=person.problem,
                seed=seed,
            )
            for place, (person, seed) in enumerate(zip(chosen, seeds, strict=True))
        ]

    def answer(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        messages = self._speak([self._chat(conversation) for conversation in conversations])
        return [
            replace(conversation, messages=(*conversation.messages, message))
            for conversation, message in zip(conversations, messages, strict=True)
        ]

    def start(self) -> None:
        self.model.start()

    def close(self) -> None:
        self.model.close()

    def _speak(self, chats: Sequence[Chat]) -> list[Message]:
        messages, counts = self._speaker.speak(chats)
        self.counts += counts
        return messages

    def _opening_chat(self, person: Person, seed: int) -> Chat:
        system = self._system(person.persona, self.knobs.of(person.id))
        return self._speaker.chat(system, (), derive_seed(seed, "opening"))

    def _chat(self, conversation: Conversation) -> Chat:
        persona = conversation.persona or conversation.situation
        knobs = self.knobs.of(conversation.source or conversation.id)
        seed = derive_seed(conversation.seed, "seeker", conversation.num_turns)
        return self._speaker.chat(self._system(persona, knobs), conversation.messages, seed)

    def _system(self, persona: str, knobs: Mapping[str, str]) -> str:
        return self.prompt.block("system", {"persona": persona, **knobs})
