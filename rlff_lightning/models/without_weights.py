"""Models without weights: their names, counts and memory are looked at before anything is loaded.

Every parameter lies on the meta device, so that a model of any size is built in a second.
"""

import copy
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig

from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import LanguageModel, LoraSettings, add_adapter
from rlff_lightning.models.last_layer import use_last_layer
from rlff_lightning.models.lean_layers import use_lean_layers

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_BLOCK = 64
"""Weights that share a scale in 4-bit NormalFloat; the scales themselves take a byte each."""


class ParameterCounts(NamedTuple):
    """How many numbers a model holds."""

    base: int
    """Weights of the pretrained model, 4-bit ones counted as weights."""
    adapter: int
    """Weights of LoRA adapters."""
    trained: int
    """Those of both that are trained."""


def read_model_config(name_or_file: str) -> PretrainedConfig:
    """Read a model's architecture from its folder, a JSON file of its own, or the hub's cache.

    Raises:
        UserError: If there is none, or it is no architecture that transformers knows.
    """
    path = Path(name_or_file).expanduser()
    file: Any = path / "config.json" if path.is_dir() else path
    if not path.exists():
        file = _cached(name_or_file)
    if file is None or not Path(file).is_file():
        raise UserError(
            f"{name_or_file}: no architecture found: must be a folder with config.json, such a "
            "file itself, or a model in the hub's cache"
        )
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(str(file))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{file}: no model architecture: {reason}") from error
    return config


def _cached(name: str) -> str | None:
    try:
        found = try_to_load_from_cache(name, "config.json")
    except ValueError:
        return None
    return found if isinstance(found, str) else None


def build_without_weights(
    config: PretrainedConfig,
    *,
    adapter: LoraSettings | None = None,
    quantize: Literal["nf4"] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    gradient_checkpointing: bool = False,
    has_head: bool = True,
    num_layers: int | None = None,
) -> LanguageModel:
    """Build what ``Backbone.build`` would load, in training mode, on the meta device.

    Args:
        config: Architecture.
        adapter: As in ``Backbone``.
        quantize: As in ``Backbone``; 4-bit layers are stood for by ``FourBitLinear``.
        dtype: As in ``Backbone``.
        gradient_checkpointing: As in ``Backbone``.
        has_head: With the output head; a reward model's trunk has none.
        num_layers: Fewer decoder layers than the architecture has.
    """
    config = copy.deepcopy(config)
    if num_layers is not None:
        config.num_hidden_layers = num_layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:num_layers]
    kind: Any = AutoModelForCausalLM if has_head else AutoModel
    with torch.device("meta"):
        base = kind.from_config(config, dtype=_DTYPES[dtype], attn_implementation="sdpa")
        if getattr(base, "pooler", None) is not None:
            base.pooler = None
        if quantize:
            _stand_in_four_bits(base, _DTYPES[dtype])
        if gradient_checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        task = "CAUSAL_LM" if has_head else "FEATURE_EXTRACTION"
        model: LanguageModel = add_adapter(base, adapter, task) if adapter else base
    if not adapter and quantize:
        raise UserError("Backbone.quantize needs Backbone.adapter: 4-bit weights cannot be trained")
    use_lean_layers(model)
    use_last_layer(base)
    model.train()
    return model


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count a model's numbers by what they are."""
    base = adapter = trained = 0
    for name, weight in model.named_parameters():
        is_packed = not weight.is_floating_point()
        number = weight.numel() * (2 if is_packed else 1)
        if ".lora_" in name:
            adapter += number
        else:
            base += number
        trained += number if weight.requires_grad else 0
    return ParameterCounts(base, adapter, trained)


def sharding_units(model: nn.Module) -> list[str]:
    """Name the modules that FSDP shards, gathers and frees as one: the model's repeated blocks.

    What lies in none of them (embedding, last norm, output head) belongs to the root's own unit.

    Raises:
        UserError: If transformers names no block of this architecture.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    blocks = set(getattr(base, "_no_split_modules", None) or ())
    units = [n for n, module in model.named_modules() if type(module).__name__ in blocks]
    if not units:
        raise UserError(f"{type(base).__name__} names no block that could be sharded as one")
    return units


class FourBitLinear(nn.Linear):
    """Takes a 4-bit layer's place and memory: packed weights and scales, unpacked for each use.

    Like bitsandbytes it keeps no input for backward, and PEFT copies its output once.
    """

    def __init__(self, layer: nn.Linear, compute: torch.dtype) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.compute = compute
        size = layer.in_features * layer.out_features
        packed = torch.empty((size + 1) // 2, 1, dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = layer.bias
        self.register_buffer("scales", torch.empty(size // _BLOCK, dtype=torch.uint8))

    def forward(self, input: Tensor) -> Tensor:
        shape = (self.out_features, self.in_features)
        out: Tensor = _FourBitProduct.apply(  # type: ignore[no-untyped-call]
            input.to(self.compute), self.weight, self.bias, shape
        )
        return out.to(input.dtype).clone()


class _FourBitProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, packed: Tensor, bias: Tensor | None, shape: tuple[int, int]
    ) -> Tensor:
        ctx.shape = shape
        return nn.functional.linear(rows, rows.new_empty(shape), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0] @ grads[0].new_empty(ctx.shape), None, None, None


def _stand_in_four_bits(model: Any, compute: torch.dtype) -> None:
    model.requires_grad_(False)
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module is not head:
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, FourBitLinear(module, compute))
