"""Linear layers that multiply by a CPU's fastest kernel."""

from torch import Tensor, nn

from rlff_lightning.functional.products import linear


class CPULinear(nn.Linear):
    """A linear layer like any other, whose float32 products on a CPU are ``products.linear``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input @ weight.T + bias``, ``(..., K)`` to ``(..., N)``."""
        return linear(input, self.weight, self.bias)


def use_cpu_linear(model: nn.Module) -> None:
    """Turn the model's plain linear layers into ``CPULinear``; weights and names stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = CPULinear
