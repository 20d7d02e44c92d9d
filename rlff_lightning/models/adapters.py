"""LoRA adapters: switch them off for the reference, merge them out of place for an engine.

An adapter is never merged in place: 50 cycles of merging and unmerging in bfloat16 change 29 % of
the base weights.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import Linear4bit as LoraLinear4bit
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlff_lightning.errors import UserError
from rlff_lightning.models.sharding import plain_name, units_whole, unwrapped, whole


@contextmanager
def policy_without_adapter(model: nn.Module) -> Iterator[None]:
    """Let ``model`` compute as its frozen base does: the reference policy.

    Unlike PEFT's own ``disable_adapter`` it leaves ``requires_grad`` alone.

    Raises:
        UserError: If there is no adapter to switch off.
    """
    model = unwrapped(model)
    if not isinstance(model, PeftModel):
        raise UserError(
            f"A reference by switching adapters off needs a LoRA policy, got {type(model).__name__}"
            "; set adapter, or give the reference as a model of its own"
        )
    layers = [
        m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)
    ]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, was_disabled in zip(layers, before, strict=True):
            layer._disable_adapters = was_disabled


@torch.no_grad()
def merged_weights(
    model: nn.Module, dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield every weight as a checkpoint of the plain model holds it, one at a time.

    W = W_0 + (alpha / r) B A, in float32, cast once; the model itself is not touched.

    Args:
        model: A PEFT model with LoRA on a full or 4-bit base, or a plain model; all processes of a
            sharded one take the same weights together.
        dtype: Of the yielded weights; by default the base's own (float32 for 4-bit weights).

    Yields:
        Name and weight; a tied output head is left out, as in a checkpoint.

    Raises:
        UserError: If an adapter is more than plain LoRA on linear layers.
    """
    with units_whole(model):
        yield from _merged_weights(unwrapped(model), dtype)


def _merged_weights(model: nn.Module, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    base: nn.Module = model.get_base_model() if isinstance(model, PeftModel) else model
    adapted = _adapted_layers(base)
    for wrapped_name, weight in base.named_parameters():
        name = plain_name(wrapped_name)
        owner, _, leaf = name.rpartition(".")
        if ".lora_" in name:
            continue
        full = whole(weight.detach())
        kind = weight.dtype
        module = base.get_submodule(wrapped_name.rpartition(".")[0])
        if isinstance(module, Linear4bit) and leaf == "weight":
            # A sharded layer keeps the scales itself.
            scales = getattr(weight, "quant_state", None) or module.quant_state
            full, kind = dequantize_4bit(full, scales), torch.float32
        layer = adapted.get(owner.removesuffix(".base_layer"))
        if layer is not None and leaf == "weight":
            full = _merged(full.float(), layer)
        yield name.replace(".base_layer.", "."), full.detach().to(dtype or kind)


def merged_copy(model: nn.Module, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Build a plain model with the adapter merged in; ``model`` stays as it is.

    Args:
        model: As in ``merged_weights``.
        dtype: Of the copy; by default the base's own (float32 for a 4-bit one).

    Returns:
        A model without adapters on the CPU, in evaluation mode, that shares no weight.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    config = copy.deepcopy(base.config)
    vars(config).pop("quantization_config", None)
    merged: PreTrainedModel = type(base)(config)
    targets = dict(merged.named_parameters())
    with torch.no_grad():
        for name, weight in merged_weights(model, dtype):
            target = targets.pop(name)
            target.data = weight.to("cpu", copy=True)
    if targets:
        raise RuntimeError(f"Merging left out {sorted(targets)}")
    merged.tie_weights()
    merged.generation_config = copy.deepcopy(base.generation_config)
    merged.eval()
    return merged


def _adapted_layers(base: nn.Module) -> dict[str, Any]:
    """Find the layers with adapters; all must be plain, unmerged LoRA on linear layers."""
    found = {}
    for name, module in base.named_modules():
        if not isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            continue
        is_plain = (
            isinstance(module, LoraLinear | LoraLinear4bit)
            and not module.lora_variant
            and not any(module.lora_bias.values())
            and not getattr(module, "fan_in_fan_out", False)
            and not module.merged
        )
        if not is_plain:
            raise UserError(f"Only plain LoRA on linear layers can be merged, got another: {name}")
        found[plain_name(name)] = module
    return found


def _merged(weight: Tensor, layer: Any) -> Tensor:
    """Add the active adapters' (alpha / r) B A to a float32 weight, out of place."""
    for adapter in layer.active_adapters:
        if adapter in layer.lora_A:
            low = whole(layer.lora_A[adapter].weight).float()
            high = whole(layer.lora_B[adapter].weight).float()
            weight = torch.addmm(weight, high, low, alpha=layer.scaling[adapter])
    return weight
