"""Simulate the futures that a candidate reply leads to, and label it with their return."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlff_lightning.agents.base import Cast
from rlff_lightning.agents.self_play import play, say
from rlff_lightning.errors import UserError
from rlff_lightning.functional.future_reward import (
    Aggregate,
    future_return,
    mean_and_standard_error,
)
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation, Episode, Future, LabelledReply, Message, Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class FutureSettings:
    """The future-oriented reward. Defaults follow CollabLLM (arXiv:2502.00640), not the paper."""

    num_futures: int = 3
    """Futures per candidate, K; 0 takes the critic's value of the seeker's next message alone."""
    look_ahead: int = 2
    """Seeker turns of a future, H, the direct answer to the reply included."""
    gamma: float = 1.0
    """Discount per turn, in (0, 1]."""
    aggregate: Aggregate = "discounted"
    """How the values of a future become one number."""
    success_bonus: float = 0.0
    """Added for success, the more the earlier."""
    max_turns: int = 8
    """Supporter turns after which a conversation ends."""

    def __post_init__(self) -> None:
        for name, least in (("num_futures", 0), ("look_ahead", 1), ("max_turns", 1)):
            value = getattr(self, name)
            if value < least:
                raise UserError(f"FutureSettings.{name} must be at least {least}, got {value!r}")
        if not 0 < self.gamma <= 1:
            raise UserError(f"FutureSettings.gamma must be within (0, 1], got {self.gamma!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A reply whose future is asked for."""

    context: Conversation
    """Ends with a seeker's message."""
    reply: Message
    """What the supporter might say."""


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
            One labelled reply per candidate, in order.
        """
        copies = max(self.settings.num_futures, 1)
        heard = [self._begin(candidate, copy) for candidate in candidates for copy in range(copies)]
        answered = self.cast.seeker.answer(heard)
        verdicts = self.cast.critic.judge(answered)
        rest = self._continue(answered, verdicts)
        futures = [
            self._future(start, verdict, episode)
            for start, verdict, episode in zip(heard, verdicts, rest, strict=True)
        ]
        return [
            self._summarise(candidate, futures[index * copies : (index + 1) * copies])
            for index, candidate in enumerate(candidates)
        ]

    def _begin(self, candidate: Candidate, copy: int) -> Conversation:
        seed = derive_seed(candidate.context.seed, "future", candidate.reply.text, copy)
        return replace(say(candidate.context, candidate.reply), seed=seed)

    def _continue(
        self, answered: Sequence[Conversation], verdicts: Sequence[Verdict]
    ) -> list[Episode]:
        """Play on where the goal is not reached and turns are left."""
        more = self.settings.look_ahead - 1 if self.settings.num_futures else 0
        episodes = [Episode(conversation=state, verdicts=()) for state in answered]
        unsolved = [index for index, verdict in enumerate(verdicts) if not verdict.is_success]
        played = play(
            [answered[index] for index in unsolved],
            self.cast,
            max_turns=self.settings.max_turns,
            max_new_turns=more,
        )
        for index, episode in zip(unsolved, played, strict=True):
            episodes[index] = episode
        return episodes

    def _future(self, start: Conversation, first: Verdict, rest: Episode) -> Future:
        verdicts = (first, *rest.verdicts)
        return Future(
            values=tuple(verdict.value for verdict in verdicts),
            is_success=verdicts[-1].is_success,
            messages=rest.conversation.messages[len(start.messages) :],
        )

    def _summarise(self, candidate: Candidate, futures: Sequence[Future]) -> LabelledReply:
        settings = self.settings
        returns = [
            future_return(
                future.values,
                gamma=settings.gamma,
                aggregate=settings.aggregate,
                success_bonus=settings.success_bonus,
                is_success=future.is_success,
                horizon=settings.look_ahead,
            )
            for future in futures
        ]
        mean, error = mean_and_standard_error(returns)
        return LabelledReply(
            context=candidate.context,
            reply=candidate.reply,
            value=mean,
            standard_error=error,
            futures=tuple(futures),
        )
