"""Norms and gated layers of transformers' models that keep less for the backward pass."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from rlff_lightning.functional.lean import gated_silu, rms_norm


def use_lean_layers(model: nn.Module) -> None:
    """Turn the model's layers into lean ones where those compute the same; weights and names stay.

    Which layers those are is tried out on each, for models call different things alike.
    """
    for module in model.modules():
        for lean, is_one in ((_LeanNorm, _is_plain_norm), (_LeanGated, _is_plain_gated)):
            if not isinstance(module, lean) and is_one(module):
                module.__class__ = _leaner(lean, type(module))  # type: ignore[arg-type]


class _LeanNorm(nn.Module):
    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the normed rows, ``(..., H)``."""
        if hidden_states.dtype == self.weight.dtype == torch.float32:
            return rms_norm(hidden_states, self.weight, self.variance_epsilon)
        normed: Tensor = super().forward(hidden_states)
        return normed


class _LeanGated(nn.Module):
    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Return ``down(silu(gate(x)) * up(x))``, ``(..., H)``."""
        down: Tensor = self.down_proj(gated_silu(self.gate_proj(x), self.up_proj(x)))
        return down


@cache
def _leaner(lean: type[nn.Module], plain: type[nn.Module]) -> Any:
    return type(f"Lean{plain.__name__}", (lean, plain), {})


def _is_plain_norm(module: nn.Module) -> bool:
    names = [name for name, _ in module.named_parameters()]
    if names != ["weight"] or not hasattr(module, "variance_epsilon"):
        return False
    rows, weight = torch.linspace(-2, 3, 14).view(2, 7), torch.linspace(1, -2, 7)
    found = _tried(module, rows, weight=weight, variance_epsilon=0.5)
    return torch.allclose(found, rms_norm(rows, weight, 0.5), rtol=1e-6, atol=1e-6)


def _is_plain_gated(module: nn.Module) -> bool:
    names = {name for name, _ in module.named_children()}
    if names != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return False
    gate, up = torch.linspace(-3, 3, 7), torch.linspace(1, -2, 7)
    layers = {"gate_proj": lambda x: gate, "up_proj": lambda x: up, "down_proj": lambda x: x}
    found = _tried(module, gate, **layers)
    return torch.allclose(found, gated_silu(gate, up), rtol=1e-6, atol=1e-6)


def _tried(module: nn.Module, rows: Tensor, **parts: Any) -> Tensor:
    """Compute what a module does with other parts: its own may be quantised or without weights."""
    found: Tensor = type(module).forward(_Stub(module, parts), rows)
    return found


class _Stub:
    """A module with other parts; whatever else is asked of it is the module's own."""

    def __init__(self, module: nn.Module, parts: dict[str, Any]) -> None:
        self.module, self.parts = module, parts

    def __getattr__(self, name: str) -> Any:
        return self.parts[name] if name in self.parts else getattr(self.module, name)
