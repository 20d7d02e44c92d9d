"""Linear layers that multiply by a CPU's fastest kernel, with adapters and without."""

from typing import Any

from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from rlff_lightning.functional.low_rank import low_rank_linear
from rlff_lightning.functional.products import is_plain_cpu, linear


class CPULinear(nn.Linear):
    """A linear layer like any other, whose float32 products on a CPU are ``products.linear``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input @ weight.T + bias``, ``(..., K)`` to ``(..., N)``."""
        return linear(input, self.weight, self.bias)


class CPULoraLinear(LoraLinear):
    """A linear layer with LoRA, which a CPU computes as one where one plain adapter is active."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's result with its active adapters', ``(..., K)`` to ``(..., N)``."""
        name = self._plain_adapter()
        if name is not None and not args and not kwargs:
            base: Any = self.base_layer
            # What shards a model puts other tensors in the place of parameters.
            down: Tensor = self.lora_A[name].weight  # type: ignore[assignment]
            up: Tensor = self.lora_B[name].weight  # type: ignore[assignment]
            trains = base.weight.requires_grad or (
                base.bias is not None and base.bias.requires_grad
            )
            if not trains and is_plain_cpu(x, base.weight, down, up):
                scale = self.scaling[name]
                return low_rank_linear(x, base.weight, base.bias, down, up, scale)
        result: Tensor = super().forward(x, *args, **kwargs)
        return result

    def _plain_adapter(self) -> str | None:
        """Name the one adapter that is active, if nothing is done but to add what it computes."""
        names = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters or self.merged or len(names) != 1:
            return None
        [name] = names
        is_plain = (
            # One that is sharded by itself has its weight only while it computes.
            all(
                type(layer) is CPULinear
                for layer in (self.base_layer, self.lora_A[name], self.lora_B[name])
            )
            and name not in self.lora_variant
            and isinstance(self.lora_dropout[name], nn.Identity)
            and self.lora_B[name].bias is None
        )
        return name if is_plain else None


def use_cpu_linear(model: nn.Module) -> None:
    """Turn the model's plain linear layers into ``CPULinear``; weights and names stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = CPULinear
        elif type(module) is LoraLinear:
            module.__class__ = CPULoraLinear
