"""Faults of a pool's servers within a run of the command; a test's config names them."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from rlff_lightning.engines.pool import ServerPoolEngine


class StaleInTheEnd(ServerPoolEngine):
    """Gives its servers version 1's adapter once more under the name of version 3."""

    def load_adapter(self, folder: Path, version: int) -> None:
        kept = Path(f"kept-{os.environ['RANK']}")
        if version == 1:
            shutil.copytree(folder, kept)
        super().load_adapter(kept if version == 3 else folder, version)


class KilledServer(Callback):
    """Kills a server while it works for the first rank on the rollout after the first update.

    Args:
        url: Of its API.
        process: Its process, which leads a group.
    """

    def __init__(self, url: str, process: int) -> None:
        self.url, self.process = url, process

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        with Path("restarts.txt").open("a") as file:
            file.write(f"{pl_module.engine.num_restarts}\n")
        if trainer.global_step == 1:
            servers = pl_module.engine._opened.servers
            [victim] = [server for server in servers if server.url == self.url]
            threading.Thread(target=self._kill, args=[victim], daemon=True).start()

    def _kill(self, victim: Any) -> None:
        while victim.load < 8:  # probes are fewer
            time.sleep(0.001)
        os.killpg(self.process, signal.SIGKILL)
