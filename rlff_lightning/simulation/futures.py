"""Simulate the futures that a candidate reply leads to, and label it with their return."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Literal

from rlff_lightning.agents.base import Cast
from rlff_lightning.agents.self_play import play, say
from rlff_lightning.errors import UserError
from rlff_lightning.functional.future_reward import (
    Aggregate,
    future_return,
    mean_and_standard_error,
)
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation, Episode, Future, LabelledReply, Message


@dataclass(frozen=True, kw_only=True, slots=True)
class FutureSettings:
    """The future-oriented reward. Defaults follow CollabLLM (arXiv:2502.00640), not the paper."""

    num_futures: int = 3
    """Futures per candidate, K; 0 takes the critic's value of the seeker's next message alone:
    look-ahead, discount, aggregate and bonus then mean nothing."""
    look_ahead: int = 2
    """Seeker turns of a future, H, the direct answer to the reply included."""
    gamma: float = 1.0
    """Discount per turn, in (0, 1]."""
    aggregate: Aggregate = "discounted"
    """How the values of a future become one number."""
    success_bonus: float = 0.0
    """Added for success, the more the earlier."""
    max_turns: int = 8
    """Supporter turns after which a conversation ends, as an episode does that a policy is tested
    by: a future that this leaves shorter than H is complete, and averages the turns that it has. It
    is marked, counted and told. Contexts of longer dialogues ask for more turns."""

    def __post_init__(self) -> None:
        for name, least in (("num_futures", 0), ("look_ahead", 1), ("max_turns", 1)):
            value = getattr(self, name)
            if value < least:
                raise UserError(f"FutureSettings.{name} must be at least {least}, got {value!r}")
        if not 0 < self.gamma <= 1:
            raise UserError(f"FutureSettings.gamma must be within (0, 1], got {self.gamma!r}")
        if not 0 <= self.success_bonus < math.inf:
            raise UserError(
                f"FutureSettings.success_bonus must be at least 0, got {self.success_bonus!r}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A reply whose future is asked for."""

    context: Conversation
    """Ends with a seeker's message."""
    reply: Message
    """What the supporter might say."""
    origin: Literal["policy", "human", "proposer"] = "policy"
    """Who wrote it."""


class FutureSimulator:
    """Plays all futures of many candidates at once.

    Args:
        cast: The seeker answers the candidate, the supporter carries on, the critic values.
        settings: Number and length of futures, and how they are summed up.
    """

    def __init__(self, cast: Cast, settings: FutureSettings) -> None:
        self.cast = cast
        self.settings = settings

    def label(self, candidates: Sequence[Candidate]) -> list[LabelledReply]:
        """Simulate the futures of every candidate and average their returns.

        Args:
            candidates: Replies in their contexts; the seeds of a future derive from its context,
                its reply and its number, so that no other candidate changes it.

        Returns:
            One labelled reply per candidate, in order. Where one of its futures was broken off,
            its ``failure`` says why and its value is nan.
        """
        copies = max(self.settings.num_futures, 1)
        heard = [self._begin(candidate, copy) for candidate in candidates for copy in range(copies)]
        episodes = self._continue(self._answer(heard))
        return [
            self._summarise(candidate, episodes[index * copies : (index + 1) * copies])
            for index, candidate in enumerate(candidates)
        ]

    def _begin(self, candidate: Candidate, copy: int) -> Conversation:
        seed = derive_seed(candidate.context.seed, "future", candidate.reply.text, copy)
        return replace(say(candidate.context, candidate.reply), seed=seed)

    def _answer(self, heard: Sequence[Conversation]) -> list[Episode]:
        """Let the seeker answer the reply itself, and judge the answer."""
        answered = self.cast.seeker.answer(heard) if heard else []
        told = [index for index, state in enumerate(answered) if not state.failure]
        judged = self.cast.critic.judge([answered[index] for index in told]) if told else []
        verdicts = dict(zip(told, judged, strict=True))
        return [
            Episode(conversation=state, verdicts=(verdicts[index],) if index in verdicts else ())
            for index, state in enumerate(answered)
        ]

    def _continue(self, begun: Sequence[Episode]) -> list[Episode]:
        """Play on where the goal is not reached and turns are left."""
        more = self._horizon - 1
        unsolved = [
            index
            for index, episode in enumerate(begun)
            if not (episode.is_success or episode.failure)
        ]
        played = play(
            [begun[index].conversation for index in unsolved],
            self.cast,
            max_turns=self.settings.max_turns,
            max_new_turns=more,
        )
        episodes = list(begun)
        for index, rest in zip(unsolved, played, strict=True):
            episodes[index] = replace(rest, verdicts=(*begun[index].verdicts, *rest.verdicts))
        return episodes

    @property
    def _horizon(self) -> int:
        return self.settings.look_ahead if self.settings.num_futures else 1

    def _future(self, candidate: Candidate, episode: Episode) -> Future:
        return Future(
            values=tuple(verdict.value for verdict in episode.verdicts),
            is_success=episode.is_success,
            messages=episode.conversation.messages[len(candidate.context.messages) + 1 :],
            is_cut=not episode.is_success and len(episode.verdicts) < self._horizon,
        )

    def _summarise(self, candidate: Candidate, episodes: Sequence[Episode]) -> LabelledReply:
        labelled = LabelledReply(
            context=candidate.context,
            reply=candidate.reply,
            value=nan,
            standard_error=nan,
            origin=candidate.origin,
        )
        failure = next((episode.failure for episode in episodes if episode.failure), "")
        if failure:
            return replace(labelled, failure=failure)
        settings = self.settings
        futures = tuple(self._future(candidate, episode) for episode in episodes)
        returns = [
            future_return(
                future.values,
                gamma=settings.gamma,
                aggregate=settings.aggregate,
                success_bonus=settings.success_bonus if settings.num_futures else 0.0,
                is_success=future.is_success,
                horizon=self._horizon,
            )
            for future in futures
        ]
        mean, error = mean_and_standard_error(returns)
        return replace(labelled, value=mean, standard_error=error, futures=futures)
