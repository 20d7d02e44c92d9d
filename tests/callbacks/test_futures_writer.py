from collections.abc import Callable
from pathlib import Path
from typing import Any

from callbacks.futures_writer import FuturesWriter
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.data.store import read_parts
from rlff_lightning.modules.simulation import SimulationModule
from rlff_lightning.types import LabelledReply


def simulate(
    folder: Path, make: Callable[..., Any], num_contexts: int, batch_size: int
) -> list[LabelledReply]:
    module = SimulationModule(
        MixedSupporter(),
        ScriptedSeeker(),
        ScriptedCritic(),
        num_contexts=num_contexts,
        batch_size=batch_size,
    )
    trainer = make(folder, callbacks=[FuturesWriter()])
    trainer.predict(module, return_predictions=False)
    return read_parts(folder / "futures")


def test_what_is_written_is_what_was_simulated_whatever_the_batch_size(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    one = simulate(tmp_path / "one", quiet_trainer, num_contexts=10, batch_size=10)
    other = simulate(tmp_path / "other", quiet_trainer, num_contexts=10, batch_size=3)
    assert len(list((tmp_path / "other" / "futures").iterdir())) == 4
    assert one == other
    assert len({record.context.id for record in one}) == 10
    # A context keeps its labels when more contexts follow it.
    more = simulate(tmp_path / "more", quiet_trainer, num_contexts=12, batch_size=5)
    assert more[: len(one)] == one


def test_a_smaller_run_leaves_nothing_of_a_larger_one_before_it(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    simulate(tmp_path, quiet_trainer, num_contexts=9, batch_size=3)
    again = simulate(tmp_path, quiet_trainer, num_contexts=3, batch_size=3)
    assert len({record.context.id for record in again}) == 3
