import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.errors import UserError
from rlff_lightning.modules.simulation import Batches, SimulationModule
from rlff_lightning.simulation.candidates import CandidateSettings
from rlff_lightning.simulation.simulate import Simulated

CAST = (MixedSupporter(), ScriptedSeeker(), ScriptedCritic())


def test_every_process_has_a_batch_even_if_it_is_empty() -> None:
    assert list(Batches([3, 5, 7], 2)) == [[3, 5], [7]]
    assert list(Batches([], 2)) == [[]]
    assert len(Batches([], 2)) == 1


class Collection(Callback):
    def __init__(self) -> None:
        self.batches: list[dict[int, Simulated]] = []

    def on_predict_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.batches.append(outputs)


def test_contexts_left_out_are_not_simulated(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    whole, rest = Collection(), Collection()
    module = SimulationModule(*CAST, num_contexts=5, batch_size=2, seed=0)
    quiet_trainer(tmp_path, callbacks=[whole]).predict(module, return_predictions=False)
    module.leave_out({0, 2, 3, 99})
    assert module.num_left_out == 3
    quiet_trainer(tmp_path, callbacks=[rest]).predict(module, return_predictions=False)
    found = {number: result for batch in whole.batches for number, result in batch.items()}
    assert list(found) == [0, 1, 2, 3, 4]
    assert rest.batches == [{number: found[number] for number in (1, 4)}]


def test_human_replies_are_asked_only_of_a_source_that_has_them() -> None:
    with pytest.raises(UserError, match="SelfPlayContexts has no human replies"):
        SimulationModule(*CAST, candidates=CandidateSettings(origins="both"))


@pytest.mark.parametrize("name", ["num_contexts", "batch_size"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"SimulationModule.{name} must be at least 1, got 0"):
        SimulationModule(*CAST, **{name: 0})  # type: ignore[arg-type]


def test_two_processes_keep_their_promises() -> None:
    # They fork. In this process OpenMP may have started threads, and a fork of those hangs.
    tests = Path(__file__).with_name("simulation_in_a_fresh_process.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tests)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "2 passed" in run.stdout
