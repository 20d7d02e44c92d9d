from pathlib import Path
from typing import Any

import pytest
import torch

from rlff_lightning.engines.vllm import VLLMEngine


class PlacedAsOnGpus(VLLMEngine):
    """Starts on a CPU with the executor that it has on GPUs."""

    def _cpu_settings(self) -> dict[str, Any]:
        backend = self._gpu_settings()["distributed_executor_backend"]
        return {**super()._cpu_settings(), "distributed_executor_backend": backend}


def test_the_worker_opens_on_the_processs_own_gpu(
    model_folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    engine = PlacedAsOnGpus(str(model_folder), **settings)
    [row] = engine.logps([[1, 2, 3]], [[4] * 9])
    assert len(row) == 9
    executor = engine._running().llm_engine.engine_core.engine_core.model_executor
    assert (executor.driver_worker.worker.local_rank, executor.driver_worker.worker.rank) == (3, 0)
    engine.close()
