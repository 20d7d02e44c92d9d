from rlff_lightning.engines.waiting import wait_for, waits_by


class Countdown:
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


def test_among_others_it_is_left_to_them_and_only_as_long_as_told() -> None:
    seen: list[object] = []
    work, other = Countdown(3), Countdown(1)
    with waits_by(seen.append):
        wait_for(work)
    wait_for(other)
    assert seen == [work]
    assert not work.is_done
    assert other.is_done
