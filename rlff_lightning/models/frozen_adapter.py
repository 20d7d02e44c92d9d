"""A trained LoRA adapter beside a model that does not own it.

Hooks add it while it is on. So neither the model's optimizer nor its checkpoints nor what an engine
is sent can ever hold it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from rlff_lightning.errors import UserError

_WEIGHTS = "adapter_model.safetensors"
_ROOT = "base_model.model."


@dataclass(frozen=True, kw_only=True, slots=True)
class _LowRank:
    """One layer's adapter. Rank r, inputs I, outputs O."""

    low: Tensor
    """A, ``(r, I)``, float32."""
    high: Tensor
    """B, ``(O, r)``, float32."""
    scale: float
    """alpha / r."""

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Add (alpha / r) B A x to the layer's output."""
        shift = linear(linear(inputs[0].to(self.low.dtype), self.low), self.high) * self.scale
        return (output + shift).to(output.dtype)


class FrozenAdapter:
    """Plain LoRA on linear layers, read from a PEFT folder.

    Args:
        folder: What PEFT wrote for an adapter of the same kind of trunk.
        trunk: Its linear layers take the adapter, below whatever adapters it has itself.

    Raises:
        UserError: If the folder holds no plain LoRA, or one for other layers.
    """

    def __init__(self, folder: Path, trunk: PreTrainedModel) -> None:
        config = _plain_lora(folder)
        self.base: str = config.base_model_name_or_path or ""
        weights = load_file(folder / _WEIGHTS)
        self._layers: list[tuple[nn.Module, _LowRank]] = []
        for key, low in weights.items():
            if not key.endswith(".lora_A.weight"):
                continue
            name = key.removeprefix(_ROOT).removesuffix(".lora_A.weight")
            layer = _linear_of(trunk, name, folder)
            high = weights[key.replace(".lora_A.", ".lora_B.")]
            place = next(layer.parameters()).device
            pair = _LowRank(
                low=low.float().to(place),
                high=high.float().to(place),
                scale=config.lora_alpha / len(low),
            )
            self._layers.append((layer, pair))

    @property
    def num_bytes(self) -> int:
        """Memory of the adapter's weights."""
        return sum(pair.low.nbytes + pair.high.nbytes for _, pair in self._layers)

    @contextmanager
    def added(self) -> Iterator[None]:
        """Let the trunk's layers compute with the adapter."""
        with ExitStack() as stack:
            for layer, pair in self._layers:
                hook: Callable[..., Any] = pair
                stack.callback(layer.register_forward_hook(hook).remove)
            yield


def _plain_lora(folder: Path) -> LoraConfig:
    for name in ("adapter_config.json", _WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder}: must be a reward model with an adapter to share a base, found no {name}"
            )
    config = PeftConfig.from_pretrained(str(folder))
    more = ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern")
    found = [name for name in more if getattr(config, name, None)]
    if not isinstance(config, LoraConfig) or found or config.bias != "none":
        raise UserError(
            f"{folder / 'adapter_config.json'}: only plain LoRA can share a base, got "
            f"{config.peft_type} with {found or 'a bias'}"
        )
    return config


def _linear_of(trunk: PreTrainedModel, name: str, folder: Path) -> nn.Module:
    try:
        layer = trunk.get_submodule(name)
    except AttributeError as error:
        raise UserError(
            f"{folder}: its adapter belongs to another model: {type(trunk).__name__} has no {name}"
        ) from error
    base: nn.Module = getattr(layer, "base_layer", layer)
    return base
