"""How code waits for an engine: alone by doing the work, among others by letting them go on.

Who runs several plays at once, each in a thread of its own, enters these threads as a ``Host``; the
code in them stays ordinary code.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Work(Protocol):
    """What somebody waits for."""

    is_elsewhere: bool
    """Others do it: to advance is to wait for them."""

    @property
    def is_done(self) -> bool:
        """It has come to its end."""

    def advance(self) -> None:
        """Do a part of it, and along with it of what others wait for; only while not done."""


class Host(Protocol):
    """Runs a play among others."""

    def wait(self, work: Work) -> None:
        """Return when the work is done."""

    def ask(self, act: Callable[..., list[Any]], items: Sequence[Any]) -> list[Any]:
        """Give ``act(items)``; what several plays ask of it may be one call."""


def wait_for(work: Work) -> None:
    """Return when the work is done."""
    host = _host()
    if host is not None:
        host.wait(work)
        return
    while not work.is_done:
        work.advance()


def ask_together(act: Callable[[Sequence[Any]], list[T]], items: Sequence[Any]) -> list[T]:
    """Give ``act(items)``, one answer per item; plays ask together, in the thread of their host."""
    host = _host()
    return act(items) if host is None else host.ask(act, items)


@contextmanager
def hosted_by(host: Host) -> Iterator[None]:
    """Let this thread's code wait and ask by ``host``."""
    before = _host()
    _thread.host = host
    try:
        yield
    finally:
        _thread.host = before


def _host() -> Host | None:
    return getattr(_thread, "host", None)


_thread = threading.local()
