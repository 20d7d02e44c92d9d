"""How code waits for an engine: alone by doing the work, among others by letting them go on.

Who runs several plays at once, each in a thread of its own, gives these threads a way to wait by
``waits_by``; the code in them stays ordinary code.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Work(Protocol):
    """What somebody waits for."""

    @property
    def is_done(self) -> bool:
        """It has come to its end."""

    def advance(self) -> None:
        """Do a part of it, and along with it of what others wait for; only while not done."""


def wait_for(work: Work) -> None:
    """Return when the work is done."""
    wait: Callable[[Work], None] | None = getattr(_thread, "wait", None)
    if wait is not None:
        wait(work)
        return
    while not work.is_done:
        work.advance()


@contextmanager
def waits_by(wait: Callable[[Work], None]) -> Iterator[None]:
    """Let ``wait_for`` in this thread call ``wait``, which returns when the work is done."""
    before = getattr(_thread, "wait", None)
    _thread.wait = wait
    try:
        yield
    finally:
        _thread.wait = before


_thread = threading.local()
