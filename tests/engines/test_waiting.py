from collections.abc import Callable, Sequence
from typing import Any

from rlff_lightning.engines.waiting import Work, ask_together, hosted_by, wait_for


class Countdown:
    is_elsewhere = False

    def __init__(self, parts: int) -> None:
        self._parts = parts

    @property
    def is_done(self) -> bool:
        return self._parts == 0

    def advance(self) -> None:
        assert not self.is_done
        self._parts -= 1


def test_alone_the_one_who_waits_does_the_work() -> None:
    work = Countdown(3)
    wait_for(work)
    assert work.is_done
    wait_for(work)


class Watching:
    """Only notes what it should wait for, and answers by hundreds."""

    def __init__(self) -> None:
        self._seen: list[Work] = []

    @property
    def seen(self) -> list[Work]:
        """What it should have waited for."""
        return self._seen

    def wait(self, work: Work) -> None:
        """Do not."""
        self._seen.append(work)

    def ask(self, act: Callable[..., list[Any]], items: Sequence[Any]) -> list[Any]:
        """Ask for each hundredfold."""
        return act([100 * item for item in items])


def test_among_others_it_is_left_to_the_host_and_only_as_long_as_told() -> None:
    host, inner = Watching(), Watching()
    work, other, own = Countdown(3), Countdown(3), Countdown(1)
    with hosted_by(host):
        with hosted_by(inner):
            wait_for(other)
        wait_for(work)
        assert ask_together(lambda items: [-item for item in items], [1, 2]) == [-100, -200]
    wait_for(own)
    assert ask_together(lambda items: [-item for item in items], [1, 2]) == [-1, -2]
    assert (host.seen, inner.seen) == ([work], [other])
    assert not work.is_done
    assert own.is_done
