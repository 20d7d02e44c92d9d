"""Play many contexts at once, each at its own pace.

In step, each call would last as long as its longest answer, and an empty answer would be asked for
again in a call of its own. So every context is played by ordinary code of its own, and the model's
batches are filled by whoever has something to ask.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch

from rlff_lightning.agents.base import Cast, Critic, Seeker, Supporter
from rlff_lightning.engines.waiting import Work, waits_by
from rlff_lightning.types import Conversation, Message, Verdict

Found = TypeVar("Found")


class Together(Generic[Found]):
    """Runs plays, each in a thread of its own, of which one runs at a time.

    So neither plays nor agents need a lock. A play stops where it waits for an engine that knows
    several callers, or where it asks an agent that does not; once all have stopped, the engine
    works on, or if nobody waits for one, the agent is asked for all of them. Both is done by the
    thread that calls ``finish``.

    Args:
        cast: Who is asked.
        act: A play: gives what is found for the context with a number; asks agents of the cast
            that it is given.
    """

    def __init__(self, cast: Cast, act: Callable[[int, Cast], Found]) -> None:
        self._act = act
        self._plays: dict[int, _Play[Found]] = {}
        self._running: _Play[Found] | None = None
        supporter, seeker, critic = cast
        self._cast = Cast(
            supporter if supporter.is_concurrent else _AskedSupporter(supporter, self._ask),
            seeker if seeker.is_concurrent else _AskedSeeker(seeker, self._ask),
            critic if critic.is_concurrent else _AskedCritic(critic, self._ask),
        )

    def finish(self, number: int, batches: Sequence[Sequence[int]], at_once: int) -> list[Found]:
        """Play the contexts of a batch to their end, and others along.

        Args:
            number: The batch.
            batches: All batches by number; those before it are done.
            at_once: Contexts of how many are played at once.

        Returns:
            What was found for each context of this batch, in order.
        """
        try:
            for context in (c for batch in batches[number : number + at_once] for c in batch):
                if context not in self._plays:
                    self._begin(context)
            while not all(self._plays[context].is_over for context in batches[number]):
                self._go_on()
            return [self._plays.pop(context).found[0] for context in batches[number]]
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """End all plays where they are."""
        plays, self._plays = self._plays, {}
        # An interrupt leaves the one that runs running: first it, so that never two do.
        for play in sorted(plays.values(), key=lambda play: play is not self._running):
            play.cancel()

    def _begin(self, context: int) -> None:
        self._plays[context] = _Play(lambda: self._act(context, self._cast))

    def _go_on(self) -> None:
        ready = [play for play in self._plays.values() if play.is_ready]
        for play in ready:
            self._running = play
            play.resume()
        if ready:
            return
        work = next((play.work for play in self._plays.values() if play.work), None)
        if work is not None:
            work.advance()
        else:
            self._answer()

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
    """A thread that runs only between ``resume`` and where it waits next."""

    def __init__(self, act: Callable[[], Found]) -> None:
        self.asked: list[tuple[int, Callable[..., list[Any]], Sequence[Any]]] = []
        self.found: list[Found] = []
        self.work: Work | None = None
        self._act = act
        self._answers: list[Any] = []
        self._error: BaseException | None = None
        self._is_cancelled = False
        self._may_run, self._has_stopped = threading.Semaphore(0), threading.Semaphore(0)
        # An agent that the cast does not know is asked in this thread: it computes as elsewhere.
        self._num_threads = torch.get_num_threads()
        is_on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._gpu = torch.cuda.current_device() if is_on_gpu else None
        self._thread = threading.Thread(target=self._run, name="rlff-play", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """The play has come to its end."""
        return bool(self.found)

    @property
    def is_ready(self) -> bool:
        """The play can go on."""
        return not (self.is_over or self.asked or (self.work and not self.work.is_done))

    def resume(self) -> None:
        """Let the play run up to where it waits next, or to its end."""
        self._may_run.release()
        self._has_stopped.acquire()
        if self._error is not None:
            raise self._error

    def ask(self, place: int, act: Callable[..., list[Any]], items: Sequence[Any]) -> list[Any]:
        """Stop until there are answers; called within the play."""
        self.asked = [(place, act, items)]
        self._stop()
        return self._answers

    def wait(self, work: Work) -> None:
        """Stop until the work is done; called within the play."""
        self.work = work
        self._stop()
        self.work = None

    def _stop(self) -> None:
        if not self._is_cancelled:
            self._has_stopped.release()
            self._may_run.acquire()
        if self._is_cancelled:
            raise _CancelledError

    def answer(self, answers: list[Any]) -> None:
        """Give what the play has asked for; it goes on when it is resumed."""
        self._answers, self.asked = answers, []

    def cancel(self) -> None:
        """End the play where it waits."""
        self._is_cancelled = True
        self._may_run.release()
        self._thread.join()

    def _run(self) -> None:
        self._may_run.acquire()
        torch.set_num_threads(self._num_threads)
        if self._gpu is not None:
            torch.cuda.set_device(self._gpu)
        try:
            if not self._is_cancelled:
                with waits_by(self.wait):
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
