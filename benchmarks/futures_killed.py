"""Kill a collection of futures at random moments, and compare its table with an undisturbed one.

    python benchmarks/futures_killed.py --kills 20
    python benchmarks/futures_killed.py --kills 20 --cast models --contexts 40

The scripted cast is quick, so that a kill strikes the store as often as the play. In the cast of
models a small one, trained before, plays all three roles by vLLM. The command ends with status 1 if
a row is missing, doubled or different.
"""

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from random import Random

import pandas as pd
from futures import cast_of
from lightning.pytorch import Trainer
from pocket_models import train_pocket

from callbacks.futures_writer import FuturesWriter
from rlff_lightning.agents.base import Cast
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.data.futures_store import FuturesStore
from rlff_lightning.engines.vllm import VLLMEngine
from rlff_lightning.engines.vllm_process import prepare_process
from rlff_lightning.modules.simulation import SimulationModule
from rlff_lightning.simulation.candidates import CandidateSettings
from rlff_lightning.simulation.contexts import SelfPlayContexts
from rlff_lightning.simulation.futures import FutureSettings


def main() -> int:
    """Collect undisturbed, then with kills, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cast", choices=["scripted", "models"], default="scripted")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--contexts", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = prepared(folder) if options.cast == "models" else None
        start_s = collected(folder / "one", model, 1, batch_size=1)
        whole_s = collected(folder / "whole", model, options.contexts, batch_size=7)
        longest_s = start_s + max(whole_s - start_s, 0) * 2 / options.kills
        expected, given_up = table(folder / "whole", options.contexts)
        draw, kills, rounds = Random(options.seed), 0, 0
        while kills < options.kills:
            rounds += 1
            run = folder / f"killed-{rounds}"
            while kills < options.kills:
                # Batches of another size each time: rows must not depend on their neighbours.
                batch_size, delay_s = draw.randint(1, 9), draw.uniform(0, longest_s)
                if not is_killed(run, model, options.contexts, batch_size, delay_s):
                    break
                kills += 1
            collected(run, model, options.contexts, batch_size=5)
            found, quarantined = table(run, options.contexts)
            if not expected.equals(found) or quarantined != given_up:
                print(f"the table differs from the undisturbed one after {kills} kills")
                return 1
        print(
            f"{kills} kills in {rounds} collections: all {len(expected)} rows of "
            f"{expected['context_number'].nunique()} contexts equal the undisturbed table's"
            + (f", and {len(given_up)} contexts are in quarantine in both" if given_up else "")
        )
    return 0


def prepared(folder: Path) -> Path:
    """Train the small model, and import what every collection would."""
    model = train_pocket(folder / "warm_start", num_steps=60, hidden_size=64)
    prepare_process()
    import vllm  # noqa: F401

    return model


def is_killed(
    run: Path, model: Path | None, num_contexts: int, batch_size: int, delay_s: float
) -> bool:
    """Collect in a process of its own and kill it.

    Returns:
        The process had not finished before.
    """
    child = forked(run, model, num_contexts, batch_size)
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def collected(run: Path, model: Path | None, num_contexts: int, batch_size: int) -> float:
    """Collect what is left in a process of its own, and give the seconds that it took."""
    start = time.monotonic()
    child = forked(run, model, num_contexts, batch_size)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit("a collection failed")
    return time.monotonic() - start


def forked(run: Path, model: Path | None, num_contexts: int, batch_size: int) -> int:
    """Begin a collection in a process of its own: this one must stay free of engines."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            collect(run, model, num_contexts, batch_size)
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)
    return child


def collect(run: Path, model: Path | None, num_contexts: int, batch_size: int) -> None:
    """Collect what is left of the contexts."""
    module = SimulationModule(
        *cast_by(model),
        contexts=SelfPlayContexts(max_turns=8 if model is None else 3),
        candidates=CandidateSettings(num_candidates=2, num_samples=2),
        futures=FutureSettings(num_futures=1, look_ahead=2),
        num_contexts=num_contexts,
        batch_size=batch_size,
        seed=0,
    )
    trainer = Trainer(
        default_root_dir=run,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[FuturesWriter(num_shown=0)],
    )
    trainer.predict(module, return_predictions=False)


def cast_by(model: Path | None) -> Cast:
    """Let a model play all roles, or none."""
    if model is None:
        return Cast(MixedSupporter(), ScriptedSeeker(), ScriptedCritic())
    engine = VLLMEngine(str(model), max_model_len=2048, kv_cache_gib=0.25, keep_prefixes=True)
    return cast_of("models", engine, max_tokens=48)


def table(run: Path, num_contexts: int) -> tuple[pd.DataFrame, set[int]]:
    """Read the whole table, as any reader of Parquet would, and the contexts in quarantine.

    No context may be in two parts, in table and quarantine, or in neither.
    """
    store = FuturesStore(run / "futures")
    rows = pd.read_parquet(store.folder)
    given_up = {entry.number for entry in store.quarantined()}
    finished = store.finished()
    assert finished >= set(rows["context_number"])
    assert not finished & given_up
    assert finished | given_up == set(range(num_contexts))
    rows = rows.sort_values("context_number", kind="stable", ignore_index=True)
    return rows, given_up


if __name__ == "__main__":
    sys.exit(main())
