"""What a model holds all the time: weights, adapter, optimizer, and the sizes of its parts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlff_lightning.models.backbone import LanguageModel
from rlff_lightning.models.training_memory import DEPTHS
from rlff_lightning.models.without_weights import sharding_units

ADAM_MOMENTS = 2
"""Numbers that AdamW keeps for each trained one."""


class StaticMemory(NamedTuple):
    """Bytes that stay through a run, and counts."""

    weights: int
    """The pretrained model's."""
    adapter: int
    """LoRA's."""
    optimizer: int
    """AdamW's moments."""
    trained: int
    """Trained weights themselves, as large as their gradients."""
    gathered: int
    """Most that FSDP holds whole: what lies in no block, two blocks, and gradients of all that."""
    parameters: int
    """Numbers of the pretrained model."""
    trained_parameters: int
    """Numbers that are trained."""


def static_memory(
    build: Callable[[int | None], LanguageModel],
    *,
    num_layers: int,
    dtype: torch.dtype | None = None,
) -> StaticMemory:
    """Add up a model's lasting memory.

    Args:
        build: Builds the model without weights with so many layers, or all of them.
        num_layers: Decoder layers of the whole model; deep ones are counted at two depths, between
            which every figure grows linearly.
        dtype: Of all weights that are not in 4 bits, where a precision plugin casts them.

    Returns:
        Bytes and counts of the whole model.
    """
    if num_layers <= max(DEPTHS):
        return _count(build(None), dtype)
    low, high = (_count(build(depth), dtype) for depth in DEPTHS)
    first, second = DEPTHS
    return StaticMemory(
        *(
            b + (b - a) // (second - first) * (num_layers - second)
            for a, b in zip(low, high, strict=True)
        )
    )


def _count(model: Any, dtype: torch.dtype | None) -> StaticMemory:
    if dtype is not None:
        model = model.to(dtype)
    weights = adapter = trained = numbers = trained_numbers = 0
    for name, weight in model.named_parameters():
        is_packed = not weight.is_floating_point()
        is_adapter = ".lora_" in name
        weights += 0 if is_adapter else weight.nbytes
        adapter += weight.nbytes if is_adapter else 0
        trained += weight.nbytes if weight.requires_grad else 0
        trained_numbers += weight.numel() if weight.requires_grad else 0
        numbers += 0 if is_adapter else weight.numel() * (2 if is_packed else 1)
    weights += sum(b.nbytes for n, b in model.named_buffers() if n.endswith(".scales"))
    units = [model.get_submodule(name) for name in sharding_units(model)]
    inside = {id(weight) for unit in units for weight in unit.parameters()}
    # The root stays whole from forward to backward's end, when its gradients are whole too. Beside
    # it are the block that is computed and the next one, and a block's gradients twice: as they
    # are, and as they are sent.
    root = sum(map(_with_gradient, (w for w in model.parameters() if id(w) not in inside)))
    blocks = [sum(map(_with_gradient, unit.parameters())) for unit in units]
    return StaticMemory(
        weights=weights,
        adapter=adapter,
        optimizer=ADAM_MOMENTS * trained,
        trained=trained,
        gathered=root + 2 * max(blocks),
        parameters=numbers,
        trained_parameters=trained_numbers,
    )


def _with_gradient(weight: Tensor) -> int:
    return weight.nbytes * (2 if weight.requires_grad else 1)
