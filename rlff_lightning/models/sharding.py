"""Spread a model over processes: each keeps a part of every weight and gathers as it goes.

What reads or writes weights outside of a forward pass asks here, and works for a model that is not
sharded too. Gathering is done by all processes together.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    FullyShardedDataParallel,
    ShardingStrategy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from rlff_lightning.errors import UserError
from rlff_lightning.models.without_weights import sharding_units


class Sharding(ABC):
    """How a model's weights are spread over processes."""

    @abstractmethod
    def model(self, model: nn.Module) -> Any:
        """Shard a language model or trunk, its blocks one by one and then the rest as the root.

        Trained weights begin as the first process has them, frozen ones must be alike already.

        Returns:
            What is called in the model's stead.

        Raises:
            UserError: If the architecture names no blocks.
        """

    @abstractmethod
    def layer(self, layer: nn.Module) -> Any:
        """Shard a layer that is called apart from a model, and so is a root of its own."""


class ShardingByWeight(Sharding):
    """FSDP2, in place: every weight is split by itself, a 4-bit one as it is packed.

    Args:
        mesh: The processes, in one dimension.
        device: Where this process computes; a block is moved there before it is split.
    """

    def __init__(self, mesh: DeviceMesh, device: torch.device) -> None:
        self.mesh = mesh
        self.device = device

    def model(self, model: nn.Module) -> Any:
        _as_plain_parameters(model)
        for name in sharding_units(model):
            self.layer(model.get_submodule(name))
        return self.layer(model)

    def layer(self, layer: nn.Module) -> Any:
        for module in layer.modules():
            if isinstance(module, Linear4bit):
                scales: Any = module.quant_state
                scales.to(self.device)
        _begin_alike(layer, self.device)
        return fully_shard(layer, mesh=self.mesh)


class ShardingByUnit(Sharding):
    """FSDP1: a unit's weights are split as one flat vector, so they must be of one type.

    The model is a root of its own, below Lightning's module: rollouts call it outside of a training
    step too.

    Args:
        device: Where this process computes.
        settings: More arguments of torch's wrapper.
    """

    def __init__(self, device: torch.device, **settings: Any) -> None:
        self.settings: dict[str, Any] = {"use_orig_params": True, **settings, "device_id": device}

    def model(self, model: nn.Module) -> Any:
        if is_four_bit(model):
            raise UserError(
                "Backbone.quantize must be null under FSDP1, whose units hold weights of one type, "
                "got nf4; FSDP2 shards 4-bit weights"
            )
        for name in sharding_units(model):
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, self.layer(model.get_submodule(name)))
        return self.layer(model)

    def layer(self, layer: nn.Module) -> Any:
        _begin_alike(layer, self.settings["device_id"])
        return FullyShardedDataParallel(layer, **self.settings)


@torch.no_grad()
def _begin_alike(layer: nn.Module, device: torch.device) -> None:
    """Move a layer, and give its trained weights the first process's values."""
    layer.to(device)
    units = (module for module in layer.modules() if isinstance(module, FullyShardedDataParallel))
    sharded = {id(weight) for unit in units for weight in unit.parameters()}
    for weight in layer.parameters():
        is_whole = not isinstance(weight, DTensor) and id(weight) not in sharded
        if weight.requires_grad and is_whole:
            distributed.broadcast(weight.data, src=0)


def _as_plain_parameters(model: nn.Module) -> None:
    """Let 4-bit weights be plain parameters beside their scales, which stay whole.

    bitsandbytes' own kind of parameter loses its scales where it is split; its layers find those
    that they keep themselves.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            packed: Any = module.weight
            module.quant_state = packed.quant_state
            module.weight = nn.Parameter(packed.data.as_subclass(Tensor), requires_grad=False)


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds a part of the model only."""
    kinds = FSDPModule, FullyShardedDataParallel
    return any(isinstance(module, kinds) for module in model.modules())


def is_four_bit(model: nn.Module) -> bool:
    """Whether the model has 4-bit weights, sharded or not."""
    return any(isinstance(module, Linear4bit) for module in model.modules())


def unwrapped(model: nn.Module) -> Any:
    """Give the model itself, which FSDP1 wraps."""
    return model.module if isinstance(model, FullyShardedDataParallel) else model


def plain_name(name: str) -> str:
    """Give a weight's name without the marks of FSDP1's wrappers."""
    return name.replace("_fsdp_wrapped_module.", "")


def units_whole(model: nn.Module) -> AbstractContextManager[None]:
    """Let FSDP1's weights be whole, for reading; FSDP2's are gathered one by one by ``whole``."""
    # One process has no such weights, and need not look through all modules at every sync.
    if not distributed.is_initialized():
        return nullcontext()
    if not any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return nullcontext()
    found: AbstractContextManager[None] = FullyShardedDataParallel.summon_full_params(
        model, writeback=False
    )
    return found


def whole(weight: Tensor) -> Tensor:
    """Gather a weight from all processes; one that is not sharded is given as it is."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def local(tensor: Tensor) -> Tensor:
    """Give this process's part, as a view."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def put(layer: nn.Module, name: str, row: int, values: Tensor) -> None:
    """Write one row of a layer's weight, of which this process may hold another part."""
    is_flat = isinstance(layer, FullyShardedDataParallel)
    with FullyShardedDataParallel.summon_full_params(layer) if is_flat else nullcontext():
        weight = getattr(layer, name)
        if not isinstance(weight, DTensor):
            weight[row] = values
            return
        filled = weight.full_tensor()
        filled[row] = values
        # Each process cuts its own part out: all were given the same values.
        parts = distribute_tensor(filled, weight.device_mesh, weight.placements, src_data_rank=None)
        weight.copy_(parts)


def named_whole_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every weight once, gathered, without gradient; of tied ones, the first name."""
    with units_whole(model):
        for name, weight in model.named_parameters():
            yield plain_name(name), whole(weight.detach())


def gathered(model: nn.Module, *, only: str = "", keep: bool = True) -> dict[str, Tensor] | None:
    """Gather a sharded model's weights on the CPU, one after the other.

    Args:
        model: Sharded or not.
        only: Part of the wanted weights' names.
        keep: This process wants them; another helps to gather.

    Returns:
        Weights by name, empty where they are not kept; ``None`` for a model that is not sharded and
        so holds them itself.
    """
    if not is_sharded(model):
        return None
    found = {}
    with units_whole(model):
        for name, weight in model.named_parameters():
            if only in name:
                gathered_weight = whole(weight.detach())
                if keep:
                    # A copy: what FSDP1 gathered is given back.
                    found[plain_name(name)] = gathered_weight.to("cpu", copy=True)
    return found


@torch.no_grad()
def clip_parts(model: nn.Module, max_norm: float) -> Tensor:
    """Clip gradients by the norm that all processes' parts have together, as FSDP1 leaves them.

    Args:
        model: Holds FSDP1's units, all of one kind; each process has other parts of the same
            weights, or all of them where nothing is split.
        max_norm: Largest norm of all gradients together.

    Returns:
        The norm before, a scalar.
    """
    weights = list(model.parameters())
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    squared = torch.zeros((), device=weights[0].device)
    for gradient in gradients:
        squared += gradient.float().square().sum()
    unit = next(m for m in model.modules() if isinstance(m, FullyShardedDataParallel))
    if unit.sharding_strategy is not ShardingStrategy.NO_SHARD:
        # Of a hybrid one, the processes that hold one replica together.
        distributed.all_reduce(squared, group=unit.process_group)
    norm = squared.sqrt()
    share = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(share.to(gradient.dtype))
    return norm
