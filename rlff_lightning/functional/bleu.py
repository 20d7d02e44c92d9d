"""BLEU of a corpus from n-gram counts that add up over replies."""

import torch
from torch import Tensor


def corpus_bleu(matches: Tensor, totals: Tensor, said: Tensor, given: Tensor) -> Tensor:
    """Combine the n-gram precisions of a corpus; not smoothed.

    BLEU = min(1, exp(1 - r/c)) (prod_n matches_n / totals_n)^(1/N)

    Args:
        matches: n-grams of the replies that their references hold, for n = 1 to N, ``(..., N)``.
        totals: All n-grams of the replies, ``(..., N)``.
        said: Words of all replies, c, ``(...)``.
        given: Words of all references, r, ``(...)``.

    Returns:
        In ``[0, 1]``, ``(...)``; 0 if no n-gram of some size is shared.

    Source: Papineni et al. 2002, ACL P02-1040, sec. 2.3.

    Example:
        >>> counts = [torch.tensor(row, dtype=torch.float64) for row in ([2, 1], [4, 3])]
        >>> corpus_bleu(*counts, said=torch.tensor(4.0), given=torch.tensor(4.0)).item()
        0.408248290463863
    """
    is_shared = (matches > 0).all(-1)
    logs = (matches.clamp(min=1) / totals.clamp(min=1)).log()
    brevity = (1 - given / said.clamp(min=1)).clamp(max=0)
    return torch.where(is_shared, torch.exp(logs.mean(-1) + brevity), 0.0)
