"""Read one state of a text by its mask, wherever the padding is."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

Pooling = Literal["last", "mean", "cls"]
"""State of the last attended token, the mean over attended tokens, or the first one's state."""


def positions_of(mask: Tensor) -> Tensor:
    """Count each row's attended tokens from 0, whatever the padding, ``(B, L)``."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Reduce the states of each row to one, in float32.

    Args:
        hidden: Last hidden states, ``(B, L, H)``.
        mask: ``True`` at real tokens, at least one per row, ``(B, L)``.
        pooling: Which state.

    Returns:
        ``(B, H)``, float32.
    """
    rows = torch.arange(len(hidden), device=hidden.device)
    match pooling:
        case "last":
            last = mask.shape[1] - 1 - mask.flip(1).long().argmax(1)
            return hidden[rows, last].float()
        case "mean":
            counted = torch.where(mask[..., None], hidden.float(), 0.0)
            return counted.sum(1) / mask.sum(1, keepdim=True)
        case "cls":
            return hidden[rows, mask.long().argmax(1)].float()
    raise ValueError(f"pooling must be 'last', 'mean' or 'cls', got {pooling!r}")


def compare(context: Tensor, latest: Tensor, reply: Tensor) -> Tensor:
    """Lay a reply beside what it answers, for a linear head to weigh.

    x = [c, l, r, c * r / 4, l * r / 4], each of c, l, r normalised to mean 0 and variance 1

    The products alone tell replies that fit a context from others; small, for a penalised head to
    turn to them second.

    Args:
        context: State of the whole context, ``(B, H)``.
        latest: State of its latest message, ``(B, H)``.
        reply: State of the reply, ``(B, H)``.

    Returns:
        ``(B, 5 H)``.

    Source: Conneau et al. 2017, InferSent, arXiv:1705.02364, sec. 3.1 (products of two texts).
    """
    said, heard, answer = (
        layer_norm(state, state.shape[-1:]) for state in (context, latest, reply)
    )
    return torch.cat([said, heard, answer, said * answer / 4, heard * answer / 4], dim=-1)
