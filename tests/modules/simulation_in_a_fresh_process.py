from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.futures_writer import FuturesWriter
from callbacks.simulation_progress import SimulationProgress
from rlff_lightning.agents.language_model import LanguageModelSupporter
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.data.store import read_parts
from rlff_lightning.engines.vllm import VLLMEngine
from rlff_lightning.modules.simulation import SimulationModule
from rlff_lightning.types import LabelledReply

Simulate = Callable[..., list[LabelledReply]]


@pytest.fixture
def simulate(quiet_trainer: Callable[..., Any], tmp_path: Path) -> Simulate:
    def run(name: str, num_contexts: int, devices: int) -> list[LabelledReply]:
        module = SimulationModule(
            MixedSupporter(),
            ScriptedSeeker(),
            ScriptedCritic(),
            num_contexts=num_contexts,
            batch_size=3,
            seed=0,
        )
        trainer = quiet_trainer(
            tmp_path / name,
            devices=devices,
            strategy="ddp_fork" if devices > 1 else "auto",
            enable_progress_bar=True,
            callbacks=[FuturesWriter(), SimulationProgress()],
        )
        trainer.predict(module, return_predictions=False)
        return read_parts(tmp_path / name / "futures")

    return run


def test_two_processes_write_what_one_does_also_with_less_than_a_context_each(
    simulate: Simulate, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    two = simulate("two", num_contexts=8, devices=2)
    parts = sorted(path.name[:8] for path in (tmp_path / "two" / "futures").glob("part-*"))
    assert parts == ["part-000"] * 2 + ["part-001"] * 2
    # The summary is of both processes.
    assert "futures: 8 of 8 contexts; " in capfd.readouterr().out
    # One context is left for two processes, then none.
    for _ in range(2):
        more = simulate("two", num_contexts=9, devices=2)
        assert len(list((tmp_path / "two" / "futures").glob("part-*"))) == 5
    one = simulate("one", num_contexts=9, devices=1)
    assert more == one
    assert two == one[: len(two)]
    assert not torch.distributed.is_initialized()


def test_every_process_refuses_so_that_none_waits_for_another_for_good(simulate: Simulate) -> None:
    simulate("two", num_contexts=3, devices=2)
    with pytest.raises(Exception, match="holds 3 contexts, num_contexts is 2"):
        simulate("two", num_contexts=2, devices=2)


@pytest.mark.timeout(180)
def test_an_engine_starts_also_where_a_process_has_no_context(
    quiet_trainer: Callable[..., Any], pocket_folder: Path, tmp_path: Path
) -> None:
    engine = VLLMEngine(str(pocket_folder), max_model_len=512, kv_cache_gib=0.03125)
    module = SimulationModule(
        LanguageModelSupporter(engine, temperature=1.0, max_tokens=8),
        ScriptedSeeker(),
        ScriptedCritic(),
        num_contexts=1,
        seed=0,
    )
    trainer = quiet_trainer(tmp_path, devices=2, strategy="ddp_fork", callbacks=[FuturesWriter()])
    trainer.predict(module, return_predictions=False)
    assert len({label.context.id for label in read_parts(tmp_path / "futures")}) == 1
