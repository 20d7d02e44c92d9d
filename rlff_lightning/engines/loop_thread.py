"""An event loop in a thread, for synchronous code that has many requests in flight."""

import asyncio
import os
from collections.abc import Coroutine
from concurrent.futures import Future
from threading import Condition, Thread, local
from typing import Any, TypeVar

from rlff_lightning.engines.waiting import wait_for

T = TypeVar("T")


class LoopThread:
    """Runs coroutines; belongs to the process that made it.

    A thread of its own: it works within a running loop, and a process that forgets to close it
    ends all the same.
    """

    def __init__(self, name: str) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine, as ``waiting.wait_for`` does; an interrupt cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        future.add_done_callback(lambda _: _bell.ring())
        try:
            wait_for(_Awaited(future))
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Awaited:
    """What a loop works on."""

    is_elsewhere = True

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    @property
    def is_done(self) -> bool:
        return self._future.done()

    def advance(self) -> None:
        # Whoever waits for several looks at all of them after this.
        _bell.wait()


class _Bell:
    """Rings where a coroutine ends; each thread that waits hears every ring since it last did."""

    def __init__(self) -> None:
        self._rung = Condition()
        self._rings = 0
        self._heard = local()

    def ring(self) -> None:
        """Wake all who wait."""
        with self._rung:
            self._rings += 1
            self._rung.notify_all()

    def wait(self) -> None:
        """Return once it has rung since this thread's last call."""
        with self._rung:
            self._rung.wait_for(lambda: self._rings != getattr(self._heard, "rings", 0))
            self._heard.rings = self._rings


_bell = _Bell()
