"""What vLLM needs of its process, and how it leaves it without tearing down what is not its own."""

import gc
import os
from dataclasses import dataclass, field
from typing import Any

import torch

from rlff_lightning.errors import UserError

_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment that vLLM reads; what the user has set stays."""


@dataclass
class _Process:
    engines: dict[int, Any] = field(default_factory=dict)
    """Running engines by id: they share vLLM's process groups."""
    has_own_group: bool = False
    """``torch.distributed`` was set up by vLLM, not by the trainer."""
    has_joined: bool = False
    """vLLM has made its groups of all training processes, which it does with its first start."""


_process = _Process()


def prepare_process() -> None:
    """Set the environment that vLLM reads when it is imported and started.

    Raises:
        UserError: If vLLM was told to run in a process of its own.
        RuntimeError: If one of several training processes starts an engine before they know of
            each other.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    multiprocessing = os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"]
    if multiprocessing != "0":
        raise UserError(
            "VLLM_ENABLE_V1_MULTIPROCESSING must be 0, as weights pass within the process, "
            f"got {multiprocessing}"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.distributed.is_initialized():
        raise RuntimeError(
            "VLLMEngine started before the strategy set up torch.distributed: vLLM would make a "
            "group of this process alone, and training would not synchronise"
        )
    if not _process.engines:
        _process.has_own_group = not torch.distributed.is_initialized()


def must_join() -> bool:
    """Whether other training processes wait, in their first start of vLLM, for one of this one."""
    is_one_of_several = (
        torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    )
    return is_one_of_several and not _process.has_joined


def engine_opened(llm: Any) -> None:
    """Note a running engine; call after its start."""
    _process.engines[id(llm)] = llm
    _process.has_joined = not _process.has_own_group


def engine_closed(llm: Any) -> None:
    """Free an engine's memory; the last one takes a process group of vLLM's own making along."""
    del _process.engines[id(llm)]
    client = llm.llm_engine.engine_core
    if _process.has_own_group and not _process.engines:
        client.shutdown()
    else:
        # That way out destroys every process group: the trainer's, and other engines'.
        client._finalizer.detach()
        client.engine_core.model_executor.shutdown()
        client.engine_core.scheduler.shutdown()
        gc.unfreeze()
