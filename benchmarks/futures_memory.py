"""Memory of a long collection of futures: flat, however many contexts it has.

python benchmarks/futures_memory.py --contexts 10000
"""

import argparse
import logging
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from callbacks.futures_writer import FuturesWriter
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.modules.simulation import SimulationModule
from rlff_lightning.simulation.candidates import CandidateSettings
from rlff_lightning.simulation.contexts import SelfPlayContexts
from rlff_lightning.simulation.futures import FutureSettings


class Memory(Callback):
    """Print resident memory each time another tenth is done."""

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        every = max(int(trainer.num_predict_batches[0]) // 10, 1)
        if (batch_idx + 1) % every == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            mib = pages * resource.getpagesize() / 2**20
            print(f"{batch[-1] + 1} contexts: {mib:.0f} MiB", flush=True)


def main() -> int:
    """Collect, watch the memory, and open the store in pandas and DuckDB."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--contexts", type=int, default=10_000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        module = SimulationModule(
            MixedSupporter(),
            ScriptedSeeker(),
            ScriptedCritic(),
            contexts=SelfPlayContexts(max_turns=3),
            candidates=CandidateSettings(num_candidates=2, num_samples=2),
            futures=FutureSettings(num_futures=1, look_ahead=2),
            num_contexts=options.contexts,
            seed=0,
        )
        trainer = Trainer(
            default_root_dir=name,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            callbacks=[FuturesWriter(), Memory()],
        )
        start = time.process_time()
        trainer.predict(module, return_predictions=False)
        print(f"{time.process_time() - start:.0f} CPU s")
        table = pd.read_parquet(Path(name) / "futures")
        print(f"pandas: {len(table)} rows, {table['context_number'].nunique()} contexts")
        try:
            import duckdb
        except ModuleNotFoundError:
            print("duckdb is not installed")
            return 0
        parts = Path(name) / "futures" / "*.parquet"
        query = f"select count(*), count(distinct context_number), avg(value) from '{parts}'"
        print(f"duckdb: {duckdb.sql(query).fetchall()}; pandas' mean {table['value'].mean()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
