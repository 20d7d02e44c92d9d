from types import SimpleNamespace
from typing import Any

import pytest

from rlff_lightning.engines.server_faults import TransientError
from rlff_lightning.engines.server_patience import GivesUp, Patience, ServerWatch

AWAY = TransientError("connection", "refused", is_away=True)
ERROR = TransientError("server error", "500")


def after(fault: TransientError, pause_s: float = 0.0) -> Any:
    return SimpleNamespace(outcome=SimpleNamespace(exception=lambda: fault), upcoming_sleep=pause_s)


def patience(max_outage_s: float = 600.0) -> Patience:
    return Patience(max_attempts=3, max_wait_s=1.0, max_outage_s=max_outage_s)


def test_a_request_is_not_given_up_for_an_outage_but_for_its_own_faults() -> None:
    watch = ServerWatch("url")
    watch.answered()
    gives_up = GivesUp(patience(), watch)
    watch.failed(AWAY)
    assert not any(gives_up(after(AWAY)) for _ in range(50))
    assert [gives_up(after(ERROR)) for _ in range(3)] == [False, False, True]


def test_a_request_that_brings_the_server_down_each_time_is_given_up() -> None:
    watch = ServerWatch("url")
    gives_up = GivesUp(patience(), watch)
    found = []
    for _ in range(3):
        # The server is there again and answers the others; then comes this one.
        watch.answered()
        watch.failed(AWAY)
        found.append([gives_up(after(AWAY)), gives_up(after(AWAY))])
    assert found == [[False, False], [False, False], [True, True]]


def test_nobody_pauses_beyond_the_longest_outage() -> None:
    watch = ServerWatch("url")
    gives_up = GivesUp(patience(max_outage_s=5.0), watch)
    watch.failed(AWAY)
    assert not gives_up(after(AWAY, pause_s=4.0))
    assert gives_up(after(AWAY, pause_s=6.0))
    watch.answered()
    assert not gives_up(after(ERROR, pause_s=4.9))


def test_a_limit_that_comes_again_and_again_is_told_ever_less_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch, limit = ServerWatch("url"), TransientError("rate limit", "429")
    told = []
    for _ in range(3):
        for pause_s in (4.0, 8.0, 16.0):
            watch.failed(limit)
            watch.told_to_wait(limit, pause_s)
            watch.answered()
            told.append(sum("slow down" in record.getMessage() for record in caplog.records))
    # 8 s is more than 5, 16 s more than 10; the next line takes more than 20.
    assert told == [0, 1, 2, 2, 2, 2, 2, 2, 2]
