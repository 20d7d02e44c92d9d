from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.dialogue.read_contexts import read_contexts
from rlff_lightning.errors import UserError
from rlff_lightning.modules.simulation import Batches, SimulationModule
from rlff_lightning.simulation.candidates import CandidateSettings
from rlff_lightning.simulation.contexts import DialogueContexts, MixedContexts, SelfPlayContexts
from rlff_lightning.simulation.futures import FutureSettings
from rlff_lightning.simulation.simulate import Simulated

FIXTURES = Path(__file__).parents[1] / "fixtures"
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
    module.leave_out({0, 2, 99}, quarantined={3, 98})
    assert (module.earlier.finished, module.earlier.quarantined) == (2, 1)
    quiet_trainer(tmp_path, callbacks=[rest]).predict(module, return_predictions=False)
    found = {number: result for batch in whole.batches for number, result in batch.items()}
    assert list(found) == [0, 1, 2, 3, 4]
    assert rest.batches == [{number: found[number] for number in (1, 4)}]


class GreedySupporter(MixedSupporter):
    is_greedy = True


def test_a_greedy_supporter_of_several_samples_is_told(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    module = SimulationModule(GreedySupporter(), *CAST[1:], num_contexts=1, seed=0)
    with pytest.warns(UserWarning, match="the 4 samples of CandidateSettings.num_samples are one"):
        quiet_trainer(tmp_path).predict(module, return_predictions=False)


def test_human_replies_are_asked_only_of_a_source_that_has_them() -> None:
    with pytest.raises(UserError, match="SelfPlayContexts has no human replies"):
        SimulationModule(*CAST, candidates=CandidateSettings(origins="both"))


def test_more_contexts_than_the_data_hold_are_refused_before_anything_is_played() -> None:
    files = DialogueContexts([str(FIXTURES / "esconv.json")])
    num_held = len(read_contexts("", files.paths))
    SimulationModule(*CAST, contexts=files, num_contexts=num_held)
    with pytest.raises(UserError, match=rf"must be at most {num_held}, .+, got {num_held + 1}$"):
        SimulationModule(*CAST, contexts=files, num_contexts=num_held + 1)
    # Numbers 0, 2, 4 … come from the files: the first that they lack is the one after the last.
    mixed = MixedContexts([files, SelfPlayContexts()])
    SimulationModule(*CAST, contexts=mixed, num_contexts=2 * num_held)
    with pytest.raises(UserError, match=f"at most {2 * num_held}, .*MixedContexts hold"):
        SimulationModule(*CAST, contexts=mixed, num_contexts=2 * num_held + 1)


def test_futures_cut_by_the_conversations_last_turn_are_counted_and_told(
    quiet_trainer: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = FutureSettings(num_futures=2, look_ahead=3, max_turns=3)
    contexts = SelfPlayContexts(max_turns=3)
    cast = (MixedSupporter(skill=0.0), ScriptedSeeker(), ScriptedCritic())
    module = SimulationModule(
        *cast, contexts=contexts, futures=settings, num_contexts=9, batch_size=4, seed=0
    )
    seen = Collection()
    quiet_trainer(tmp_path, callbacks=[seen]).predict(module, return_predictions=False)
    results = [result for batch in seen.batches for result in batch.values()]
    futures = [
        (result.context.num_turns, future)
        for result in results
        for reply in result.replies
        for future in reply.futures
    ]
    # The reply is turn num_turns + 1 of 3; without success every turn up to the third is played.
    for turns, future in futures:
        assert future.is_cut == (not future.is_success and turns > 0)
        assert not future.is_cut or len(future.values) == 3 - turns
    cut = sum(future.is_cut for _, future in futures)
    assert 0 < cut < len(futures)
    assert (module.tally.cut, module.tally.futures) == (cut, len(futures))
    told = f"{cut} of this run's {len(futures)} futures ended with their conversation's turn 3"
    assert told in caplog.text


@pytest.mark.parametrize("name", ["num_contexts", "batch_size"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"SimulationModule.{name} must be at least 1, got 0"):
        SimulationModule(*CAST, **{name: 0})  # type: ignore[arg-type]


@pytest.mark.timeout(900)
def test_two_processes_keep_their_promises(fresh_pytest: Callable[[str], int]) -> None:
    assert fresh_pytest("simulation_in_a_fresh_process.py") == 3
