"""Parts of a layer that keep less for the backward pass, and go over it less often, than autograd.

Autograd keeps every intermediate result that some step needs, and goes over memory once for each
step; where activations do not fit a cache, that is what their time goes to.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def rms_norm(rows: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise by the root mean square.

    y = w * x / sqrt(mean(x^2) + eps)

    Kept for backward are ``x / sqrt(...)`` and the root's inverse, not ``x`` too.

    Args:
        rows: ``(..., H)``, float32.
        weight: ``(H,)``, float32.
        eps: Keeps a row of zeros finite.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """
    if torch._C._are_functorch_transforms_active():
        return rows * (rows.square().mean(-1, keepdim=True) + eps).rsqrt() * weight
    normed: Tensor = _RMSNorm.apply(rows, weight, eps)  # type: ignore[no-untyped-call]
    return normed


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """Weigh ``up`` by the gate.

    y = gate * sigmoid(gate) * up

    Kept for backward are ``gate`` and ``up``; what the gate lets through is computed again.

    Args:
        gate: ``(..., H)``.
        up: ``(..., H)``.

    Source: SwiGLU, Shazeer 2020, arXiv:2002.05202.
    """
    if torch._C._are_functorch_transforms_active():
        return nn.functional.silu(gate) * up
    gated: Tensor = _GatedSiLU.apply(gate, up)  # type: ignore[no-untyped-call]
    return gated


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the halves of each head by the token's angles.

    (a, b) -> (a cos_1 - b sin_1, b cos_2 + a sin_2)

    Args:
        query: ``(B, heads, S, D)``.
        key: ``(B, heads, S, D)``, perhaps of fewer heads.
        cos: Cosines for both halves, ``(B, 1, S, D)``.
        sin: Sines, ``(B, 1, S, D)``.

    Source: RoPE, Su et al. 2021, arXiv:2104.09864, in the layout of transformers.
    """
    turned: tuple[Tensor, Tensor] = _Rotation.apply(  # type: ignore[no-untyped-call]
        query, key, cos, sin
    )
    return turned


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        first, second = sin.chunk(2, -1)
        return _turned(query, cos, -first, second), _turned(key, cos, -first, second)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, query_grad: Tensor, key_grad: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        first, second = sin.chunk(2, -1)
        back = _turned(query_grad, cos, second, -first), _turned(key_grad, cos, second, -first)
        return *back, None, None


def _turned(rows: Tensor, cos: Tensor, of_second: Tensor, of_first: Tensor) -> Tensor:
    turned = rows * cos
    (a, b), (first, second) = rows.chunk(2, -1), turned.chunk(2, -1)
    first.addcmul_(b, of_second)
    second.addcmul_(a, of_first)
    return turned


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, eps: float) -> Tensor:
        mean_square = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).square_()
        inverse = mean_square.div_(rows.shape[-1]).add_(eps).rsqrt_()
        normed: Tensor = rows * inverse
        ctx.save_for_backward(normed, weight, inverse)
        return normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        normed, weight, inverse = ctx.saved_tensors
        needs_rows, needs_weight = ctx.needs_input_grad[:2]
        # dx = (g w - n mean(g w n)) / sqrt(...), n being the normed row.
        pulled = grad * normed
        weight_grad = pulled.flatten(0, -2).sum(0) if needs_weight else None
        if not needs_rows:
            return None, weight_grad, None
        with torch.autocast(grad.device.type, enabled=False):
            mean = (pulled @ weight).div_(-weight.numel())[..., None]
        rows_grad = torch.mul(grad, weight, out=pulled).addcmul_(normed, mean).mul_(inverse)
        return rows_grad, weight_grad, None


class _GatedSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        up_grad = nn.functional.silu(gate).mul_(grad)
        gate_grad = torch.ops.aten.silu_backward(grad * up, gate)
        return gate_grad, up_grad
