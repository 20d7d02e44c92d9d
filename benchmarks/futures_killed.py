"""Kill a collection of futures at random moments, and compare its table with an undisturbed one.

    python benchmarks/futures_killed.py --kills 20

The cast is scripted, so that a kill strikes the store as often as the play. The command ends with
status 1 if a row is missing, doubled or different.
"""

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from random import Random

import pandas as pd
from lightning.pytorch import Trainer

from callbacks.futures_writer import FuturesWriter
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.data.futures_store import FuturesStore
from rlff_lightning.modules.simulation import SimulationModule
from rlff_lightning.simulation.candidates import CandidateSettings
from rlff_lightning.simulation.futures import FutureSettings


def main() -> int:
    """Collect undisturbed, then with kills, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--contexts", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.monotonic()
        collect(folder / "whole", options.contexts, batch_size=7)
        longest_s = (time.monotonic() - start) * 2 / options.kills
        expected = table(folder / "whole")
        draw, kills, rounds = Random(options.seed), 0, 0
        while kills < options.kills:
            rounds += 1
            run = folder / f"killed-{rounds}"
            while kills < options.kills and is_killed(run, options.contexts, draw, longest_s):
                kills += 1
            collect(run, options.contexts, batch_size=5)
            if not expected.equals(table(run)):
                print(f"the table differs from the undisturbed one after {kills} kills")
                return 1
        print(
            f"{kills} kills in {rounds} collections: all {len(expected)} rows of "
            f"{expected['context_number'].nunique()} contexts equal the undisturbed table's"
        )
    return 0


def is_killed(run: Path, num_contexts: int, draw: Random, longest_s: float) -> bool:
    """Collect in a process of its own and kill it at a random moment.

    Returns:
        The process had not finished before.
    """
    # Batches of another size each time: rows must not depend on their neighbours.
    batch_size, delay_s = draw.randint(1, 9), draw.uniform(0, longest_s)
    child = os.fork()
    if child == 0:
        collect(run, num_contexts, batch_size)
        os._exit(0)
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def collect(run: Path, num_contexts: int, batch_size: int) -> None:
    """Collect what is left of the contexts."""
    module = SimulationModule(
        MixedSupporter(),
        ScriptedSeeker(),
        ScriptedCritic(),
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


def table(run: Path) -> pd.DataFrame:
    """Read the whole table, as any reader of Parquet would; no context may be in two parts."""
    store = FuturesStore(run / "futures")
    rows = pd.read_parquet(store.folder)
    assert store.finished() == set(rows["context_number"])
    return rows.sort_values("context_number", kind="stable", ignore_index=True)


if __name__ == "__main__":
    sys.exit(main())
