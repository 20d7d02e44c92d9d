"""Where the contexts come from whose replies are labelled."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TypeVar

from rlff_lightning.agents.base import Cast, Supporter
from rlff_lightning.agents.joint import joint_supporter
from rlff_lightning.agents.self_play import play
from rlff_lightning.dialogue.read_contexts import check_share, read_contexts
from rlff_lightning.errors import UserError
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation, Message

Found = TypeVar("Found")


class ContextSource(ABC):
    """Gives the context with a certain number, always the same one."""

    has_replies: bool = False
    """The data know what a human replied to (some of) the contexts."""

    @abstractmethod
    def contexts(self, numbers: Sequence[int], cast: Cast, *, seed: int) -> list[Conversation]:
        """Give the contexts with these numbers; each ends with a seeker's message.

        One whose ``failure`` says why could not be had after every retry.
        """

    def replies(self, numbers: Sequence[int], *, seed: int) -> list[Message | None]:
        """Give the data's own reply to each of these contexts; ``None`` where there is none."""
        return [None] * len(numbers)

    def num_held(self) -> int | None:
        """Count the contexts, from number 0 on; ``None`` where there is no end of them."""
        return None

    def supporters(self) -> list[Supporter]:
        """List the source's own supporters, beside those of the cast."""
        return []


class SelfPlayContexts(ContextSource):
    """Conversations with the cast's seeker, broken off after a random number of turns.

    Args:
        supporter: Whose conversations they are; ``None`` for the cast's, the policy itself.
        max_turns: Supporter turns of a whole episode; a context has fewer.
    """

    def __init__(self, supporter: Supporter | None = None, max_turns: int = 8) -> None:
        self.supporter = supporter
        self.max_turns = max_turns

    def supporters(self) -> list[Supporter]:
        return [self.supporter] if self.supporter else []

    def contexts(self, numbers: Sequence[int], cast: Cast, *, seed: int) -> list[Conversation]:
        cast = cast._replace(supporter=joint_supporter(self.supporter or cast.supporter))
        opened = cast.seeker.open([derive_seed(seed, "context", number) for number in numbers])
        by_depth: dict[int, list[int]] = {}
        for index, state in enumerate(opened):
            depth = Random(derive_seed(state.seed, "depth")).randrange(self.max_turns)
            by_depth.setdefault(depth, []).append(index)
        contexts = list(opened)
        # Depth by depth would be many small calls: all play on together, and stop when their
        # own depth is reached.
        live = {index: state for index, state in enumerate(opened) if not state.failure}
        for depth in range(self.max_turns):
            for index in by_depth.get(depth, []):
                live.pop(index, None)
            if not live:
                break
            states = list(live.values())
            played = play(states, cast, max_turns=self.max_turns, max_new_turns=1)
            for index, episode in zip(list(live), played, strict=True):
                if episode.is_success:
                    live.pop(index)
                elif episode.failure:
                    live.pop(index)
                    contexts[index] = _broken(episode.conversation, episode.failure)
                else:
                    contexts[index] = live[index] = episode.conversation
        return [replace(context, id=f"{context.id}/t{context.num_turns}") for context in contexts]


def _broken(conversation: Conversation, reason: str) -> Conversation:
    """Note on the last message why the conversation ends: a critic leaves no message."""
    *said, last = conversation.messages
    return replace(conversation, messages=(*said, replace(last, failure=reason)))


class DialogueContexts(ContextSource):
    """Contexts of the supporter turns in dialogues from files.

    Args:
        paths: Files of any known dialogue shape.
        max_messages: Latest turns kept; ``None`` keeps all.
        val_fraction: Share of the dialogues left out: those that ``FileReplies`` holds out with
            the same share and ``split_seed``.
        split_seed: Another one leaves out other dialogues.
        exclude: Files whose dialogues are left out, before the split, wherever ``paths`` hold
            them too.
    """

    def __init__(
        self,
        paths: list[str],
        max_messages: int | None = None,
        val_fraction: float = 0.0,
        split_seed: int = 0,
        exclude: list[str] | None = None,
    ) -> None:
        if not paths:
            raise UserError("DialogueContexts.paths must name a file, got none")
        check_share("DialogueContexts", val_fraction)
        self.has_replies = True
        self.paths = [Path(path) for path in paths]
        self.max_messages = max_messages
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.exclude = [Path(path) for path in exclude or ()]
        self._pairs: list[tuple[Conversation, Message]] = []
        self._shuffled: dict[int, list[tuple[Conversation, Message]]] = {}

    def contexts(self, numbers: Sequence[int], cast: Cast, *, seed: int) -> list[Conversation]:
        return [context for context, _ in self._chosen(numbers, seed)]

    def replies(self, numbers: Sequence[int], *, seed: int) -> list[Message | None]:
        return [reply for _, reply in self._chosen(numbers, seed)]

    def num_held(self) -> int:
        return len(self._read())

    def _chosen(self, numbers: Sequence[int], seed: int) -> list[tuple[Conversation, Message]]:
        if seed not in self._shuffled:
            self._shuffled[seed] = [*self._read()]
            Random(derive_seed(seed, "order")).shuffle(self._shuffled[seed])
        chosen = [self._shuffled[seed][number] for number in numbers]
        return [
            (replace(context, seed=derive_seed(seed, context.id)), reply)
            for context, reply in chosen
        ]

    def _read(self) -> list[tuple[Conversation, Message]]:
        if not self._pairs:
            self._pairs = read_contexts(
                "DialogueContexts",
                self.paths,
                max_messages=self.max_messages,
                val_fraction=self.val_fraction,
                split_seed=self.split_seed,
                exclude=self.exclude,
            )
        return self._pairs


class MixedContexts(ContextSource):
    """Take turns between several sources: coverage of states that one of them hardly visits.

    Args:
        sources: Sources; context ``n`` comes from source ``n mod len(sources)``.
    """

    def __init__(self, sources: list[ContextSource]) -> None:
        if not sources:
            raise UserError("MixedContexts.sources must name a source, got none")
        self.has_replies = any(source.has_replies for source in sources)
        self.sources = sources

    def contexts(self, numbers: Sequence[int], cast: Cast, *, seed: int) -> list[Conversation]:
        return self._gather(
            numbers,
            lambda part, inner: self.sources[part].contexts(
                inner, cast, seed=derive_seed(seed, "part", part)
            ),
        )

    def replies(self, numbers: Sequence[int], *, seed: int) -> list[Message | None]:
        return self._gather(
            numbers,
            lambda part, inner: self.sources[part].replies(
                inner, seed=derive_seed(seed, "part", part)
            ),
        )

    def num_held(self) -> int | None:
        ends = [
            count * len(self.sources) + part
            for part, count in enumerate(source.num_held() for source in self.sources)
            if count is not None
        ]
        return min(ends, default=None)

    def supporters(self) -> list[Supporter]:
        return [supporter for source in self.sources for supporter in source.supporters()]

    def _gather(
        self, numbers: Sequence[int], ask: Callable[[int, list[int]], list[Found]]
    ) -> list[Found]:
        given: dict[int, Found] = {}
        for part in range(len(self.sources)):
            own = [number for number in numbers if number % len(self.sources) == part]
            found = ask(part, [number // len(self.sources) for number in own]) if own else []
            given.update(zip(own, found, strict=True))
        return [given[number] for number in numbers]
