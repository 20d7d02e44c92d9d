"""Layers of transformers' models with a backward pass that keeps less, or takes fewer steps."""

from collections.abc import Callable
from functools import cache
from inspect import signature
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from rlff_lightning.functional.lean import gated_silu, rms_norm, rotate
from rlff_lightning.functional.products import is_plain_cpu
from rlff_lightning.models.trials import Stub, gives


def use_lean_layers(model: nn.Module) -> None:
    """Turn the model's layers into lean ones where those compute the same; weights and names stay.

    Which layers those are is tried out on each, for models call different things alike.
    """
    for module in model.modules():
        for lean, is_one in ((_LeanNorm, _is_plain_norm), (_LeanGated, _is_plain_gated)):
            if not isinstance(module, lean) and is_one(module):
                module.__class__ = _leaner(lean, type(module))  # type: ignore[arg-type]
        if _rotates_plainly(type(module)):  # type: ignore[arg-type]
            module.__class__ = _rotating(type(module))  # type: ignore[arg-type]


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


@cache
def _rotating(plain: Any) -> Any:
    """Make an attention layer whose ``forward`` reads another rotation under that name."""
    forward: FunctionType = plain.forward
    own = {**forward.__globals__, _ROTATION: _rotation(forward.__globals__[_ROTATION])}
    lean = FunctionType(
        forward.__code__, own, forward.__name__, forward.__defaults__, forward.__closure__
    )
    lean.__kwdefaults__ = forward.__kwdefaults__
    return type(f"Lean{plain.__name__}", (plain,), {"forward": lean})


def _rotation(plain: Callable[..., Any]) -> Callable[..., Any]:
    def apply(
        query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        is_whole = cos.dim() == 3 and cos.shape[-1] == query.shape[-1] == key.shape[-1]
        if args or kwargs or not is_whole or not is_plain_cpu(query, key, cos, sin):
            return plain(query, key, cos, sin, *args, **kwargs)
        return rotate(query, key, cos[:, None], sin[:, None])

    return apply


@cache
def _rotates_plainly(kind: Any) -> bool:
    forward = kind.forward
    if not isinstance(forward, FunctionType) or _ROTATION not in forward.__code__.co_names:
        return False
    if kind.__name__.startswith("Lean") or _ROTATION not in forward.__globals__:
        return False
    query, key = (
        torch.linspace(-2, 3, 24).view(1, 2, 3, 4),
        torch.linspace(1, 4, 12).view(1, 1, 3, 4),
    )
    cos, sin = torch.linspace(-1, 1, 12).view(1, 3, 4), torch.linspace(0, 1, 12).view(1, 3, 4)
    expected = rotate(query, key, cos[:, None], sin[:, None])
    return gives(lambda: forward.__globals__[_ROTATION](query, key, cos, sin), *expected)


_ROTATION = "apply_rotary_pos_emb"
"""Name under which transformers' attention layers know their rotation."""


def _is_plain_norm(module: nn.Module) -> bool:
    names = [name for name, _ in module.named_parameters()]
    if names != ["weight"] or not hasattr(module, "variance_epsilon"):
        return False
    rows, weight = torch.linspace(-2, 3, 14).view(2, 7), torch.linspace(1, -2, 7)
    stub = Stub(module, {"weight": weight, "variance_epsilon": 0.5})
    return _takes_rows_alone(module) and gives(
        lambda: (type(module).forward(stub, rows),), rms_norm(rows, weight, 0.5)
    )


def _is_plain_gated(module: nn.Module) -> bool:
    names = {name for name, _ in module.named_children()}
    if names != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return False
    gate, up = torch.linspace(-3, 3, 7), torch.linspace(1, -2, 7)
    layers = {"gate_proj": lambda x: gate, "up_proj": lambda x: up, "down_proj": lambda x: x}
    stub = Stub(module, layers)
    return _takes_rows_alone(module) and gives(
        lambda: (type(module).forward(stub, gate),), gated_silu(gate, up)
    )


def _takes_rows_alone(module: nn.Module) -> bool:
    return len(signature(type(module).forward).parameters) == 2
