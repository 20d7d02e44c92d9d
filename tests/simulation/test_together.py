import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from callbacks.futures_writer import FuturesWriter
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.data.store import read_parts
from rlff_lightning.modules.simulation import SimulationModule
from rlff_lightning.types import Conversation, LabelledReply, Message


class Watched(MixedSupporter):
    """Notes how many conversations each call has, and who calls."""

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


def test_batches_out_of_step_write_the_same_rows_with_fewer_and_larger_calls(
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


class Broken(MixedSupporter):
    """Gives one message too few, so that the play itself fails."""

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        return super().reply(conversations)[1:]


def test_a_mistake_within_a_play_is_raised_where_the_trainer_runs(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="zip"):
        collect(tmp_path, quiet_trainer, Broken(), batch_size=5)
    assert all_plays_ended()
