"""Play many contexts at once, each at its own pace.

In step, each call would last as long as its longest answer, and an empty answer would be asked for
again in a call of its own. So every context is played by ordinary code of its own, and the model's
batches are filled by whoever has something to ask.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch

from rlff_lightning.engines.waiting import Work, hosted_by

Found = TypeVar("Found")


class Together(Generic[Found]):
    """Runs plays, each in a thread of its own, of which one runs at a time.

    So neither plays nor agents need a lock. A play stops where it waits for an engine or a server,
    or where it asks together with others (``engines.waiting``). Once all have stopped, an engine
    works on; if none has to, a server is waited for; and if nobody waits for any of them, what was
    asked is asked for all. The thread that calls ``finish`` does this.

    Args:
        act: A play: gives what is found for the context with a number.
    """

    def __init__(self, act: Callable[[int], Found]) -> None:
        self._act = act
        self._plays: dict[int, _Play[Found]] = {}
        self._running: _Play[Found] | None = None

    def finish(self, number: int, batches: Sequence[Sequence[int]], num_live: int) -> list[Found]:
        """Play the contexts of a batch to their end, and others along.

        Args:
            number: The batch.
            batches: All batches by number; those before it are done.
            num_live: Contexts that are played at once, at most. They are begun in order; none is
                begun that lies more than as many behind the batch.

        Returns:
            What was found for each context of this batch, in order.
        """
        own = batches[number]
        waiting = [context for batch in batches[number:] for context in batch]
        waiting = [c for c in waiting[: len(own) + num_live] if c not in self._plays]
        try:
            while not all(c in self._plays and self._plays[c].is_over for c in own):
                live = sum(not play.is_over for play in self._plays.values())
                for context in waiting[: max(num_live - live, 0)]:
                    self._plays[context] = _Play(self._act, context)
                del waiting[: max(num_live - live, 0)]
                self._go_on()
            return [self._plays.pop(context).found[0] for context in own]
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """End all plays where they are."""
        plays, self._plays = self._plays, {}
        # An interrupt leaves the one that runs running: first it, so that never two do.
        for play in sorted(plays.values(), key=lambda play: play is not self._running):
            play.cancel()

    def _go_on(self) -> None:
        ready = [play for play in self._plays.values() if play.is_ready]
        for play in ready:
            self._running = play
            play.resume()
        if ready:
            return
        works = [play.work for play in self._plays.values() if play.work is not None]
        here = [work for work in works if not work.is_elsewhere]
        if here:
            # Of several engines, the one that most wait for.
            [(advance, _)] = Counter(work.advance for work in here).most_common(1)
            advance()
        elif works:
            works[0].advance()
        else:
            self._answer()

    def _answer(self) -> None:
        """Ask what most plays wait for, for all of them."""
        waiting = [play for play in self._plays.values() if play.asked]
        [(act, _)] = Counter(play.asked[0][0] for play in waiting).most_common(1)
        asking = [play for play in waiting if play.asked[0][0] == act]
        answers = act([item for play in asking for item in play.asked[0][1]])
        start = 0
        for play in asking:
            count = len(play.asked[0][1])
            play.answer(answers[start : start + count])
            start += count


class _Play(Generic[Found]):
    """A thread that runs only between ``resume`` and where it waits next."""

    def __init__(self, act: Callable[[int], Found], context: int) -> None:
        self.asked: list[tuple[Callable[..., list[Any]], Sequence[Any]]] = []
        self.found: list[Found] = []
        self.work: Work | None = None
        self._act, self._context = act, context
        self._answers: list[Any] = []
        self._error: BaseException | None = None
        self._is_cancelled = False
        self._may_run, self._has_stopped = threading.Semaphore(0), threading.Semaphore(0)
        # An agent that is asked in this thread computes as it does elsewhere.
        self._num_threads = torch.get_num_threads()
        is_on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._gpu = torch.cuda.current_device() if is_on_gpu else None
        self._thread: threading.Thread | None = None

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
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rlff-play", daemon=True)
            self._thread.start()
        self._may_run.release()
        self._has_stopped.acquire()
        if self._error is not None:
            raise self._error

    def ask(self, act: Callable[..., list[Any]], items: Sequence[Any]) -> list[Any]:
        """Stop until there are answers; called within the play."""
        self.asked = [(act, items)]
        self._stop()
        return self._answers

    def wait(self, work: Work) -> None:
        """Stop until the work is done; called within the play."""
        self.work = work
        self._stop()
        self.work = None

    def answer(self, answers: list[Any]) -> None:
        """Give what the play has asked for; it goes on when it is resumed."""
        self._answers, self.asked = answers, []

    def cancel(self) -> None:
        """End the play where it waits."""
        self._is_cancelled = True
        self._may_run.release()
        if self._thread is not None:
            self._thread.join()

    def _stop(self) -> None:
        if not self._is_cancelled:
            self._has_stopped.release()
            self._may_run.acquire()
        if self._is_cancelled:
            raise _CancelledError

    def _run(self) -> None:
        self._may_run.acquire()
        torch.set_num_threads(self._num_threads)
        if self._gpu is not None:
            torch.cuda.set_device(self._gpu)
        try:
            if not self._is_cancelled:
                with hosted_by(self):
                    self.found.append(self._act(self._context))
        except _CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001  # raised again by `resume`
            self._error = error
        finally:
            self._has_stopped.release()


class _CancelledError(BaseException):
    """Ends a play that nobody waits for any more."""
