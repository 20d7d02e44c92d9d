import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from callbacks.futures_writer import FuturesWriter
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.data.store import read_parts
from rlff_lightning.engines.waiting import wait_for
from rlff_lightning.modules.simulation import SimulationModule
from rlff_lightning.simulation.candidates import CandidateSettings
from rlff_lightning.simulation.contexts import SelfPlayContexts
from rlff_lightning.types import Conversation, LabelledReply, Message


class Watched(MixedSupporter):
    """Notes how many conversations each call has, and who calls."""

    is_concurrent = False

    def __init__(self, fails_at_call: int | None = None) -> None:
        super().__init__()
        self._fails_at_call = fails_at_call
        self._sizes: list[int] = []
        self._threads: set[str] = set()

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        self._sizes.append(len(conversations))
        self._threads.add(threading.current_thread().name)
        if len(self._sizes) == self._fails_at_call:
            raise RuntimeError("out of memory")
        return super().reply(conversations)

    @property
    def sizes(self) -> list[int]:
        """Conversations of each call."""
        return self._sizes

    @property
    def threads(self) -> set[str]:
        """Who called."""
        return self._threads


def all_plays_ended() -> bool:
    plays = [thread for thread in threading.enumerate() if thread.name == "rlff-play"]
    for play in plays:
        play.join(timeout=10)
    return not any(play.is_alive() for play in plays)


def collect(
    folder: Path, trainer: Callable[..., Any], supporter: MixedSupporter, **settings: Any
) -> list[LabelledReply]:
    module = SimulationModule(
        supporter, ScriptedSeeker(), ScriptedCritic(), num_contexts=30, seed=0, **settings
    )
    trainer(folder, callbacks=[FuturesWriter()]).predict(module)
    return read_parts(folder / "futures")


def test_contexts_together_write_the_same_rows_with_fewer_and_larger_calls(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    alone, together = Watched(), Watched()
    one = collect(tmp_path / "one", quiet_trainer, alone, batch_size=5, batches_at_once=1)
    many = collect(tmp_path / "many", quiet_trainer, together, batch_size=5, batches_at_once=3)
    assert many == one
    assert len(list((tmp_path / "many" / "futures").glob("part-*"))) == 6
    assert sum(together.sizes) == sum(alone.sizes)
    assert len(together.sizes) < 0.7 * len(alone.sizes)
    # Agents are asked where the Trainer runs, never by a play.
    assert together.threads == {"MainThread"}
    assert all_plays_ended()


@pytest.mark.parametrize("call", [1, 5])
def test_a_fault_within_one_batch_ends_all_and_leaves_nothing_behind(
    quiet_trainer: Callable[..., Any], tmp_path: Path, call: int
) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        collect(tmp_path, quiet_trainer, Watched(call), batch_size=5, batches_at_once=3)
    assert all_plays_ended()


def test_who_writes_contexts_and_proposals_is_asked_for_all_plays_too(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    writer, proposer = Watched(), Watched()
    collect(
        tmp_path,
        quiet_trainer,
        MixedSupporter(),
        batch_size=5,
        batches_at_once=3,
        contexts=SelfPlayContexts(writer),
        candidates=CandidateSettings(proposer=proposer, num_proposed=2),
    )
    for asked in (writer, proposer):
        assert asked.threads == {"MainThread"}
        assert max(asked.sizes) >= 10


def test_no_more_contexts_are_played_at_once_than_told_and_none_waits_for_a_batch(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    engine = Slow()
    collect(tmp_path, quiet_trainer, Waiting(engine, 3), batch_size=5, batches_at_once=2)
    assert max(engine.steps) == 10
    # Where one ends the next begins, but for the last ones, and those far behind a batch.
    assert mean(engine.steps[: len(engine.steps) // 2]) > 7


class Broken(Watched):
    """Gives one message too few, so that the play itself fails."""

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        return super().reply(conversations)[1:]


def test_a_mistake_within_a_play_is_raised_where_the_trainer_runs(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="zip"):
        collect(tmp_path, quiet_trainer, Broken(), batch_size=5)
    assert all_plays_ended()


class Slow:
    """An engine that is as long about an answer as it is told to be; others are answered along."""

    def __init__(self) -> None:
        self._waiting: list[list[int]] = []
        self._steps: list[int] = []

    def answer(self, parts: int) -> None:
        """Wait for so many steps."""
        engine, left = self, [parts]

        class Request:
            is_elsewhere = False
            advance = staticmethod(engine.step)

            @property
            def is_done(self) -> bool:
                return left[0] <= 0

        self._waiting.append(left)
        try:
            wait_for(Request())
        finally:
            self._waiting = [other for other in self._waiting if other is not left]

    def step(self) -> None:
        """Bring everybody's answer a step nearer."""
        assert threading.current_thread() is threading.main_thread()
        self._steps.append(len(self._waiting))
        if len(self._steps) == 400:
            raise RuntimeError("the engine broke")
        for left in self._waiting:
            left[0] -= 1

    @property
    def steps(self) -> list[int]:
        """How many were waited for in each step."""
        return self._steps


class Waiting(MixedSupporter):
    """Answers some conversations late."""

    def __init__(self, engine: Slow, latest: int) -> None:
        super().__init__()
        self._engine, self._latest = engine, latest

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        self._engine.answer(1 + conversations[0].seed % self._latest)
        return super().reply(conversations)


def test_who_has_an_answer_goes_on_while_others_wait(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    alone, together = Slow(), Slow()
    settings = {"batch_size": 1, "batches_at_once": 1}
    one = collect(tmp_path / "one", quiet_trainer, Waiting(alone, 3), **settings)
    settings = {"batch_size": 5, "batches_at_once": 3}
    many = collect(tmp_path / "many", quiet_trainer, Waiting(together, 3), **settings)
    assert many == one
    assert set(alone.steps) == {1}
    assert max(together.steps) == 15
    # In step, every call of 15 would last its latest answer's three steps.
    assert len(together.steps) < 0.2 * len(alone.steps)
    assert sum(together.steps) >= len(alone.steps)


def test_an_engine_that_breaks_ends_all_and_nobody_waits_for_it_any_more(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    engine = Slow()
    with pytest.raises(RuntimeError, match="the engine broke"):
        collect(tmp_path, quiet_trainer, Waiting(engine, 100), batch_size=5, batches_at_once=3)
    assert all_plays_ended()
    assert engine._waiting == []
