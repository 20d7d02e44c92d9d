"""FSDP2 over all processes: each holds a part of every weight, gradient and optimizer state."""

import secrets
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from typing_extensions import override

from rlff_lightning.errors import UserError
from rlff_lightning.strategies.checkpoint_files import (
    CheckpointFiles,
    drop_leftovers,
    hidden,
    is_sharded_checkpoint,
    replace,
    whole_checkpoint,
)


class FSDP2(ModelParallelStrategy):
    """Shard the trained model over all processes of all nodes.

    Checkpoints are sharded, appear whole or not at all, and load under another number of processes
    and under another strategy. The sizes follow from ``devices`` and ``num_nodes``.
    """

    def __init__(self) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=1)

    @override
    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        target, mark = self.broadcast((Path(filepath), secrets.token_hex(4)))
        if self.is_global_zero:
            target.parent.mkdir(parents=True, exist_ok=True)
            drop_leftovers(target.parent)
        self.barrier()
        super().save_checkpoint(checkpoint, hidden(target, mark), storage_options)
        self.barrier()
        if self.is_global_zero:
            replace(target, hidden(target, mark))
        self.barrier()

    @override
    def remove_checkpoint(self, filepath: Any) -> None:
        if self.is_global_zero:
            CheckpointFiles().remove_checkpoint(filepath)

    @override
    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        path = Path(self.broadcast(checkpoint_path))
        with whole_checkpoint(path):
            if is_sharded_checkpoint(path):
                return super().load_checkpoint(path, weights_only)
            checkpoint: dict[str, Any] = torch.load(
                path, map_location="cpu", mmap=True, weights_only=weights_only
            )
        self._load_whole_weights(path, checkpoint.pop("state_dict"))
        states = checkpoint.pop("optimizer_states", [])
        for optimizer, state in zip(self.optimizers, states, strict=False):
            _load_whole_optimizer(optimizer, state)
        return checkpoint

    @torch.no_grad()
    def _load_whole_weights(self, path: Path, state: dict[str, Any]) -> None:
        assert self.lightning_module is not None
        for name, weight in self.lightning_module.named_parameters():
            if name in state:
                weight.copy_(_part_of(state.pop(name), weight))
            elif weight.requires_grad:
                raise UserError(f"ckpt_path: {path} lacks the trained weight {name}")
        # What is left are buffers and modules' own states.
        own = dict(self.lightning_module.named_parameters(remove_duplicate=False))
        rest = {name: value for name, value in state.items() if name not in own}
        self.lightning_module.load_state_dict(rest, strict=False)


def _load_whole_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load what another strategy saved: states count the weights in the optimizer's own order."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    weight_of = dict(zip(numbers, weights, strict=True))
    parts = {
        number: {key: _part_of(value, weight_of[number]) for key, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": parts})


def _part_of(value: Tensor, weight: Tensor) -> Tensor:
    """Cut this process's part out of a whole value, as ``weight`` is cut; a count is no such."""
    is_alike = isinstance(value, Tensor) and value.shape == weight.shape
    if not isinstance(weight, DTensor) or not is_alike:
        return value
    value = value.to(weight.device)
    return distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None)
