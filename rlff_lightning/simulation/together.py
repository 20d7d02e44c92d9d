"""Play several batches at once, out of step: what they ask of one agent becomes one call.

A batch alone calls its agents with few conversations while its contexts are played, and with many
while its futures are. Batches in different phases fill each other's calls.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch

from rlff_lightning.agents.base import Cast, Critic, Seeker, Supporter
from rlff_lightning.types import Conversation, Message, Verdict

Found = TypeVar("Found")


class Together(Generic[Found]):
    """Runs plays, each as ordinary code in a thread of its own, of which one runs at a time.

    So neither plays nor agents need a lock. A play stops where it asks an agent of ``cast``; once
    all have stopped, the agent is asked for all of them, by the thread that calls ``finish``. It is
    the supporter's turn when no play waits for anyone else: plays fall into step.

    Args:
        cast: Who is asked.
        act: A play: gives what is found for a batch of context numbers; asks agents of the cast
            that it is given.
    """

    def __init__(self, cast: Cast, act: Callable[[Sequence[int], Cast], Found]) -> None:
        self._act = act
        self._plays: dict[int, _Play[Found]] = {}
        self._running: _Play[Found] | None = None
        self._cast = Cast(
            _AskedSupporter(cast.supporter, self._ask),
            _AskedSeeker(cast.seeker, self._ask),
            _AskedCritic(cast.critic, self._ask),
        )

    def finish(self, number: int, batches: Sequence[Sequence[int]], at_once: int) -> Found:
        """Play a batch to its end, and others along.

        Args:
            number: The batch.
            batches: All batches by number; those before it are done.
            at_once: How many are played at once.

        Returns:
            What the play of this batch found.
        """
        try:
            while True:
                self._begin(number, batches, at_once)
                for play in self._plays.values():
                    self._resume(play)
                if self._plays[number].is_over:
                    return self._plays.pop(number).found[0]
                self._answer()
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """End all plays where they are."""
        plays, self._plays = self._plays, {}
        for play in plays.values():
            play.cancel()

    def _begin(self, number: int, batches: Sequence[Sequence[int]], at_once: int) -> None:
        """Begin the next plays, but not two at the same turn: out of step they share calls best."""
        live = [play for play in self._plays.values() if not play.is_over]
        last = min(number + at_once, len(batches))
        waiting = [other for other in range(number, last) if other not in self._plays]
        turns_between = max(self._num_turns // at_once, 1)
        if waiting and all(play.num_turns >= turns_between for play in live):
            batch = batches[waiting[0]]
            self._plays[waiting[0]] = _Play(lambda: self._act(batch, self._cast))

    def _resume(self, play: "_Play[Found]") -> None:
        if not play.is_over and not play.asked:
            self._running = play
            play.resume()
            if play.is_over:
                self._num_turns = play.num_turns

    _num_turns = 8
    """Supporter turns of the play that ended last."""

    def _ask(self, place: int, act: Callable[..., list[Any]], items: Sequence[Any]) -> list[Any]:
        assert self._running is not None
        return self._running.ask(place, act, items)

    def _answer(self) -> None:
        """Ask the first agent in turn, for all plays that wait for it."""
        waiting = [play for play in self._plays.values() if play.asked]
        place, act, _ = min((play.asked[0] for play in waiting), key=lambda asked: asked[0])
        asking = [play for play in waiting if play.asked[0][:2] == (place, act)]
        answers = act([item for play in asking for item in play.asked[0][2]])
        start = 0
        for play in asking:
            count = len(play.asked[0][2])
            play.answer(answers[start : start + count])
            start += count


class _Play(Generic[Found]):
    """A thread that runs only between ``resume`` and its next question."""

    def __init__(self, act: Callable[[], Found]) -> None:
        self.asked: list[tuple[int, Callable[..., list[Any]], Sequence[Any]]] = []
        self.found: list[Found] = []
        self.num_turns = 0
        self._act = act
        self._answers: list[Any] = []
        self._error: BaseException | None = None
        self._is_cancelled = False
        self._may_run, self._has_stopped = threading.Semaphore(0), threading.Semaphore(0)
        # An agent that the cast does not know is asked in this thread: it computes as elsewhere.
        self._num_threads = torch.get_num_threads()
        is_on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._gpu = torch.cuda.current_device() if is_on_gpu else None
        threading.Thread(target=self._run, name="rlff-play", daemon=True).start()

    @property
    def is_over(self) -> bool:
        """The play has come to its end."""
        return bool(self.found)

    def resume(self) -> None:
        """Let the play run up to its next question, or to its end."""
        self._may_run.release()
        self._has_stopped.acquire()
        if self._error is not None:
            raise self._error

    def ask(self, place: int, act: Callable[..., list[Any]], items: Sequence[Any]) -> list[Any]:
        """Stop until there are answers; called within the play."""
        if self._is_cancelled:
            raise _CancelledError
        self.asked = [(place, act, items)]
        self.num_turns += place == _SUPPORTER
        self._has_stopped.release()
        self._may_run.acquire()
        if self._is_cancelled:
            raise _CancelledError
        return self._answers

    def answer(self, answers: list[Any]) -> None:
        """Give what the play has asked for; it goes on when it is resumed."""
        self._answers, self.asked = answers, []

    def cancel(self) -> None:
        """End the play at its next question."""
        self._is_cancelled = True
        self._may_run.release()

    def _run(self) -> None:
        self._may_run.acquire()
        torch.set_num_threads(self._num_threads)
        if self._gpu is not None:
            torch.cuda.set_device(self._gpu)
        try:
            if not self._is_cancelled:
                self.found.append(self._act())
        except _CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001  # raised again by `resume`
            self._error = error
        finally:
            self._has_stopped.release()


class _CancelledError(BaseException):
    """Ends a play that nobody waits for any more."""


_SEEKER, _CRITIC, _SUPPORTER = range(3)
"""Who is asked first if plays wait for several."""

_Ask = Callable[[int, Callable[..., list[Any]], Sequence[Any]], list[Any]]


class _AskedSupporter(Supporter):
    def __init__(self, supporter: Supporter, ask: _Ask) -> None:
        self.supporter = supporter
        self._ask = ask

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        return self._ask(_SUPPORTER, self.supporter.reply, conversations)


class _AskedSeeker(Seeker):
    def __init__(self, seeker: Seeker, ask: _Ask) -> None:
        self.seeker = seeker
        self._ask = ask

    def open(self, seeds: Sequence[int]) -> list[Conversation]:
        return self._ask(_SEEKER, self.seeker.open, seeds)

    def answer(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        return self._ask(_SEEKER, self.seeker.answer, conversations)


class _AskedCritic(Critic):
    def __init__(self, critic: Critic, ask: _Ask) -> None:
        self.critic = critic
        self._ask = ask

    @property
    def name(self) -> str:
        return self.critic.name

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        return self._ask(_CRITIC, self.critic.judge, conversations)
