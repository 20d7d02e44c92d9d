"""Where the contexts come from whose replies are labelled."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from rlff_lightning.agents.base import Cast, Supporter
from rlff_lightning.agents.self_play import play
from rlff_lightning.dialogue.read import read_dialogues
from rlff_lightning.dialogue.turns import reply_contexts
from rlff_lightning.errors import UserError
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation


class ContextSource(ABC):
    """Gives the context with a certain number, always the same one."""

    @abstractmethod
    def contexts(self, numbers: Sequence[int], cast: Cast, *, seed: int) -> list[Conversation]:
        """Give the contexts with these numbers; each ends with a seeker's message."""


class SelfPlayContexts(ContextSource):
    """Conversations with the cast's seeker, broken off after a random number of turns.

    Args:
        supporter: Whose conversations they are; ``None`` for the cast's, the policy itself.
        max_turns: Supporter turns of a whole episode; a context has fewer.
    """

    def __init__(self, supporter: Supporter | None = None, max_turns: int = 8) -> None:
        self.supporter = supporter
        self.max_turns = max_turns

    def contexts(self, numbers: Sequence[int], cast: Cast, *, seed: int) -> list[Conversation]:
        cast = cast._replace(supporter=self.supporter or cast.supporter)
        opened = cast.seeker.open([derive_seed(seed, "context", number) for number in numbers])
        by_depth: dict[int, list[int]] = {}
        for index, state in enumerate(opened):
            depth = Random(derive_seed(state.seed, "depth")).randrange(self.max_turns)
            by_depth.setdefault(depth, []).append(index)
        contexts = list(opened)
        # Depth by depth would be many small calls: all play on together, and stop when their
        # own depth is reached.
        live = dict(enumerate(opened))
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
                else:
                    contexts[index] = live[index] = episode.conversation
        return [replace(context, id=f"{context.id}/t{context.num_turns}") for context in contexts]


class DialogueContexts(ContextSource):
    """Contexts of the supporter turns in dialogues from files.

    Args:
        paths: Files of any known dialogue shape.
        max_messages: Latest turns kept; ``None`` keeps all.
    """

    def __init__(self, paths: list[str], max_messages: int | None = None) -> None:
        if not paths:
            raise UserError("DialogueContexts.paths must name a file, got none")
        self.paths = [Path(path) for path in paths]
        self.max_messages = max_messages
        self._contexts: list[Conversation] = []

    def contexts(self, numbers: Sequence[int], cast: Cast, *, seed: int) -> list[Conversation]:
        if not self._contexts:
            self._contexts = [
                context
                for dialogue in read_dialogues(self.paths)
                for context, _ in reply_contexts(dialogue, max_messages=self.max_messages)
            ]
            Random(derive_seed(seed, "order")).shuffle(self._contexts)
        if max(numbers, default=0) >= len(self._contexts):
            raise UserError(
                f"DialogueContexts.paths hold {len(self._contexts)} contexts; "
                f"the simulation asks for number {max(numbers) + 1}"
            )
        return [self._contexts[number] for number in numbers]


class MixedContexts(ContextSource):
    """Take turns between several sources: coverage of states that one of them hardly visits.

    Args:
        sources: Sources; context ``n`` comes from source ``n mod len(sources)``.
    """

    def __init__(self, sources: list[ContextSource]) -> None:
        if not sources:
            raise UserError("MixedContexts.sources must name a source, got none")
        self.sources = sources

    def contexts(self, numbers: Sequence[int], cast: Cast, *, seed: int) -> list[Conversation]:
        given: dict[int, Conversation] = {}
        for part, source in enumerate(self.sources):
            own = [number for number in numbers if number % len(self.sources) == part]
            inner = [number // len(self.sources) for number in own]
            found = source.contexts(inner, cast, seed=derive_seed(seed, "part", part))
            given.update(zip(own, found, strict=True))
        return [given[number] for number in numbers]
