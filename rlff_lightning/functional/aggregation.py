"""From one value per token to one number, the same however the tokens are split up.

An optimizer step's window is every micro-batch of every rank that it accumulates. Its loss is
a sum over the window, divided by its size, and the size is the sum of every micro-batch's
``window_size``. So a micro-batch contributes ``aggregate(values, mask, aggregation, size)``, and
contributions add up. Lightning divides a loss by ``accumulate_grad_batches`` and DDP averages
gradients over ranks: the module multiplies by both.
"""

from typing import Literal

import torch
from torch import Tensor

from rlff_lightning.errors import UserError
from rlff_lightning.functional.masked import masked_mean, masked_sum

Aggregation = Literal["token", "sequence", "constant"]
"""Every token counts the same; every sequence does; or divide by a constant length."""


def window_size(
    loss_mask: Tensor, aggregation: Aggregation, *, max_tokens: int | None = None
) -> Tensor:
    """Count what a micro-batch adds to the number its window is divided by.

    token: number of tokens; sequence: B; constant: B * max_tokens

    Args:
        loss_mask: Tokens that train, ``(B, T)``; rows without any count as sequences.
        aggregation: What counts the same.
        max_tokens: The constant length, tokens; for ``"constant"`` only.

    Returns:
        An int64 scalar; sizes of micro-batches and ranks add up.

    Raises:
        UserError: If there is no such aggregation, or the constant is missing.

    Source: Shao et al. 2024, arXiv:2402.03300, eq. 3 (sequence); Yu et al. 2025, arXiv:2503.14476,
    eq. 12 (token); Liu et al. 2025, arXiv:2503.20783, sec. 3.2 (constant).
    """
    if aggregation == "token":
        return loss_mask.sum()
    rows = torch.tensor(loss_mask.shape[0], device=loss_mask.device)
    if aggregation == "sequence":
        return rows
    if aggregation == "constant" and max_tokens is not None:
        return rows * max_tokens
    raise UserError(
        "aggregation must be 'token', 'sequence', or 'constant' together with max_tokens, "
        f"got {aggregation!r} with max_tokens={max_tokens!r}"
    )


def aggregate(
    values: Tensor, loss_mask: Tensor, aggregation: Aggregation, size: Tensor | float
) -> Tensor:
    """Reduce a micro-batch's values to its part of the window's mean.

    sum_i w_i sum_t values_it / size, with w_i = 1 / |y_i| for "sequence" and 1 else

    Args:
        values: One per token, ``(B, T)``; what does not train may be inf or nan.
        loss_mask: Tokens that train, ``(B, T)``.
        aggregation: What counts the same.
        size: Sum of ``window_size`` over the window, all ranks; 0 gives 0.

    Returns:
        A scalar; the parts of a window's micro-batches add up to its mean.
    """
    reduce = masked_mean if aggregation == "sequence" else masked_sum
    total = reduce(values, loss_mask, dim=-1).sum()
    return total / torch.as_tensor(size, device=total.device).clamp(min=1)
