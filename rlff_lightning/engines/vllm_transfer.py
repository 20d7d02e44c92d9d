"""All weights to a vLLM server by its weight-transfer interface: the one module that knows it.

The trainer writes safetensors into a folder that the server sees; the server's worker loads them
between vLLM's ``start_weight_update`` and ``finish_weight_update``. So it works on CPU as on GPUs,
whatever a server's tensor parallelism, where vLLM's own transports (NCCL, CUDA IPC) need a GPU.

A server takes part when it is started as ``configs/launch/vllm_server.sh`` does: with ``BACKEND``
as its transport, with this module's ``Worker``, and with ``VLLM_SERVER_DEV_MODE=1``, which opens
the interface's routes. Tried with the versions in ``TRIED_WITH``; the interface is new and may
change.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from rlff_lightning.errors import UserError

TRIED_WITH = ("0.32.0",)
"""Versions of vLLM whose interface this module was run against."""

BACKEND = "rlff_folder"
"""Name of the transport in vLLM's registry."""

PART_BYTES = 2**30
"""About the size of a file: the trainer holds no more than this beside its own weights."""


def write_weights(weights: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """Write named tensors as safetensors parts; the folder appears whole or not at all.

    Args:
        weights: Names of a Hugging Face checkpoint, each once.
        folder: Must not exist.
    """
    unfinished = folder.with_name(f"{folder.name}.partial")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    part: dict[str, Tensor] = {}
    size = number = 0
    for name, weight in weights:
        # A copy: tied or sliced weights share memory, which safetensors refuses.
        part[name] = weight.detach().to("cpu", copy=True).contiguous()
        size += part[name].nbytes
        if size >= PART_BYTES:
            save_file(part, unfinished / f"part-{number:05d}.safetensors")
            part, size, number = {}, 0, number + 1
    if part:
        save_file(part, unfinished / f"part-{number:05d}.safetensors")
    unfinished.replace(folder)


def update_calls(folder: Path, version: str) -> list[tuple[str, dict[str, Any]]]:
    """List the routes of one update, in order, with their bodies.

    Requests are drained and cached prefixes dropped by the pause.
    """
    return [
        ("pause?mode=wait", {}),
        ("init_weight_transfer_engine", {"init_info": {}}),
        ("start_weight_update", {}),
        ("update_weights", {"update_info": {"folder": str(folder.resolve())}}),
        ("finish_weight_update", {"weight_version": version}),
        ("resume", {}),
    ]


def ending_calls() -> list[tuple[str, dict[str, Any]]]:
    """List the routes that end an update which was cut short, wherever it was.

    Layers that got nothing keep their weights. The first route fails where the update is still
    open; it is for one that ended by a fault and left layers without weights.
    """
    return [
        ("start_weight_update", {}),
        ("finish_weight_update", {"weight_version": "unfinished"}),
        ("resume", {}),
    ]


def check_version(version: str, server: str) -> None:
    """Refuse a server whose interface nobody has tried.

    Raises:
        UserError: If the server runs another version.
    """
    if version not in TRIED_WITH:
        raise UserError(
            f"{server}: all weights pass by vLLM's weight-transfer interface, which was tried with "
            f"{', '.join(TRIED_WITH)} alone, got {version}; train an adapter, which goes "
            "another way, or add the version to vllm_transfer.TRIED_WITH once it is tried"
        )


def __getattr__(name: str) -> Any:
    # vLLM looks this name up in each of its workers before it loads the model. A trainer without
    # vLLM imports the module all the same.
    if name == "Worker":
        return _registered_worker()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _registered_worker() -> type:
    """Make the transport known to vLLM; the class that it mixes into its worker is empty."""
    from dataclasses import dataclass

    from safetensors import safe_open
    from vllm.distributed.weight_transfer.base import (
        WeightTransferEngine,
        WeightTransferInitInfo,
        WeightTransferUpdateInfo,
    )
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.model_executor.model_loader.reload import (
        finalize_layerwise_reload,
        initialize_layerwise_reload,
    )

    from rlff_lightning.engines.vllm_weights import repack_embeddings

    @dataclass
    class Start(WeightTransferInitInfo):
        """Nothing has to be agreed on."""

    @dataclass
    class Update(WeightTransferUpdateInfo):
        """Where the weights lie."""

        folder: str

    class FolderTransfer(WeightTransferEngine[Start, Update]):
        """Loads weights from safetensors files."""

        init_info_cls = Start
        update_info_cls = Update

        @property
        def _model(self) -> Any:
            return self.model

        def init_transfer_engine(self, init_info: Start) -> None:
            return

        def start_weight_update(self) -> None:
            initialize_layerwise_reload(self.model)

        def update_weights(self, update_info: dict[str, Any]) -> None:
            self.receive_weights(self.parse_update_info(update_info))

        def receive_weights(self, update_info: Update) -> None:
            def stored() -> Iterable[tuple[str, Tensor]]:
                for file in sorted(Path(update_info.folder).glob("*.safetensors")):
                    with safe_open(file, framework="pt") as part:
                        for name in part.keys():  # noqa: SIM118
                            yield name, part.get_tensor(name)

            self._model.load_weights(stored())

        def finish_weight_update(self) -> None:
            finalize_layerwise_reload(self.model, self.model_config)  # type: ignore[no-untyped-call]
            repack_embeddings(self.model)

        def shutdown(self) -> None:
            return

    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, FolderTransfer)
    return type("Worker", (), {})
