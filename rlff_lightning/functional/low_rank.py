"""A frozen linear layer with a low-rank one beside it, in two passes over the result."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlff_lightning.functional.products import linear, product


def low_rank_linear(
    rows: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
) -> Tensor:
    """Multiply by a weight and its low-rank change.

    y = x W^T + b + s (x A^T) B^T

    Args:
        rows: x, ``(..., K)``.
        weight: W, frozen, ``(N, K)``.
        bias: b, frozen, ``(N,)``.
        down: A, ``(R, K)``.
        up: B, ``(N, R)``.
        scale: s.

    Returns:
        ``(..., N)``. Autograd would keep as much, but go over results and gradients once more for
        every sum and for the scale.

    Source: Hu et al. 2021 (LoRA), arXiv:2106.09685, equation 3.
    """
    result: Tensor = _LowRank.apply(  # type: ignore[no-untyped-call]
        rows, weight, bias, down, up, scale
    )
    return result


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
    ) -> Tensor:
        flat = rows.reshape(-1, rows.shape[-1])
        inner = flat @ down.T
        result = linear(flat, weight, bias).addmm_(inner, up.T, alpha=scale)
        ctx.save_for_backward(rows, weight, down, up, inner)
        ctx.scale = scale
        return result.view(*rows.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, down, up, inner = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        inner_grad = (flat @ up).mul_(ctx.scale)
        up_grad = (flat.T @ inner).mul_(ctx.scale)
        down_grad = inner_grad.T @ rows.reshape(-1, rows.shape[-1])
        rows_grad = None
        if ctx.needs_input_grad[0]:
            rows_grad = product(flat.contiguous(), weight.T).addmm_(inner_grad, down)
            rows_grad = rows_grad.view(rows.shape)
        return rows_grad, None, None, down_grad, up_grad, None
