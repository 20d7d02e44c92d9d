"""Float32 matrix products on a CPU by the faster of the two libraries that torch brings along.

torch multiplies float32 matrices by MKL, which keeps its AVX-512 kernels to one maker's processors.
On others oneDNN, which knows them all, is twice as fast: 250 GFLOP/s of one core of an AMD EPYC, to
110 by MKL (torch 2.13, the shapes of a model of a million parameters). On that maker's own MKL is
the faster: an update of such a model took a sixth less by it. Both are exact to rounding.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_MIN_MULTIPLY_ADDS = 2**20
"""Below that a call of oneDNN costs more than it saves."""

_MIN_SUMMANDS = 128
"""The same of a product that is added to a sum."""

_SMALL_WEIGHT = 128
"""Rows and columns of a weight whose gradient is left to torch."""


def product(rows: Tensor, columns: Tensor) -> Tensor:
    """Multiply without gradient: ``rows @ columns.T``.

    Args:
        rows: ``(M, K)``.
        columns: ``(N, K)``.

    Returns:
        ``(M, N)``.
    """
    if _is_faster_by_onednn(rows, columns):
        return _onednn(rows, columns, None)
    return rows @ columns.T


def add_product(total: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Add ``rows @ columns.T`` to ``total`` without gradient.

    Args:
        total: ``(M, N)``; may be of a wider type.
        rows: ``(M, K)``.
        columns: ``(N, K)``.
    """
    # oneDNN cannot add to what is there: a long sum is worth another pass over the total.
    if rows.shape[1] >= _MIN_SUMMANDS and _is_faster_by_onednn(rows, columns):
        total += _weight_grad(rows, columns)
    elif total.dtype == rows.dtype:
        total.addmm_(rows, columns.T)
    else:
        total += rows @ columns.T


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply with gradient, as ``torch.nn.functional.linear`` does.

    Args:
        rows: ``(..., K)``.
        weight: ``(N, K)``.
        bias: ``(N,)``.

    Returns:
        ``rows @ weight.T + bias``, ``(..., N)``.
    """
    if _is_faster_by_onednn(rows, weight) and (bias is None or bias.dtype == rows.dtype):
        result: Tensor = _Linear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
        return result
    return nn.functional.linear(rows, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return _onednn(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        needs_rows, needs_weight, needs_bias = ctx.needs_input_grad
        flat = grad.reshape(-1, len(weight)).contiguous()
        rows_grad = weight_grad = bias_grad = None
        if needs_rows:
            rows_grad = product(flat, weight.T).view(rows.shape)
        if needs_weight:
            seen = rows.reshape(-1, weight.shape[1]).contiguous()
            weight_grad = _weight_grad(flat.T, seen.T)
        if needs_bias:
            bias_grad = flat.sum(0)
        return rows_grad, weight_grad, bias_grad


def is_plain_cpu(*tensors: Tensor) -> bool:
    """Tell whether float32 tensors on a CPU are computed with as they are.

    Subclasses, autocast, compilers and function transforms see through torch's own operations
    alone.
    """
    return (
        all(
            type(tensor) in (Tensor, nn.Parameter)
            and tensor.device.type == "cpu"
            and tensor.dtype == torch.float32
            for tensor in tensors
        )
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def _is_faster_by_onednn(rows: Tensor, columns: Tensor) -> bool:
    return (
        is_plain_cpu(rows, columns)
        and rows.numel() * len(columns) >= _MIN_MULTIPLY_ADDS
        and bool(torch.backends.mkldnn.enabled)
        and torch._C._has_mkldnn
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and not _has_mkls_maker()
    )


@cache
def _has_mkls_maker() -> bool:
    """Whether the processor is Intel's: by name, for a trial would not end the same each time."""
    described = Path("/proc/cpuinfo")
    return described.exists() and "GenuineIntel" in described.read_text(encoding="utf-8")


def _weight_grad(rows: Tensor, columns: Tensor) -> Tensor:
    # oneDNN packs its first matrix where that lies transposed, which is cheap for the smaller one;
    # of two small ones MKL is the faster, on its maker's rivals too.
    if max(len(rows), len(columns)) <= _SMALL_WEIGHT:
        return rows @ columns.T
    return product(columns, rows).T if len(rows) > len(columns) else product(rows, columns)


def _onednn(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return result
