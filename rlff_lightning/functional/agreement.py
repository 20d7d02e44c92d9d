"""Agreement of two judges who judged the same things."""

from torch import Tensor

from rlff_lightning.errors import UserError


def cohen_kappa(counts: Tensor) -> Tensor:
    """Measure how far two judges agree beyond what their own shares would give by chance.

    kappa = (p_o - p_e) / (1 - p_e), with p_o = sum_i n_ii / n and p_e = sum_i n_i. n_.i / n^2

    Args:
        counts: How often the first judge said row i and the second column j, ``(C, C)``.

    Returns:
        A scalar in ``[-1, 1]``: 1 for full agreement, 0 for chance. NaN where chance alone gives
        full agreement: no counts, or both judges always say the same one thing.

    Raises:
        UserError: If ``counts`` is not square or has a negative entry.

    Source: Cohen 1960, Educational and Psychological Measurement 20(1), eq. 1.

    Example:
        >>> import torch
        >>> cohen_kappa(torch.tensor([[20, 5], [10, 15]])).item()  # (.7 - .5) / (1 - .5)
        0.4
    """
    if counts.dim() != 2 or counts.shape[0] != counts.shape[1] or bool((counts < 0).any()):
        raise UserError(
            f"cohen_kappa.counts must be (C, C) and not negative, got {tuple(counts.shape)}"
        )
    cells = counts.double()
    total = cells.sum()
    observed = cells.diagonal().sum() / total
    expected = (cells.sum(0) * cells.sum(1)).sum() / total**2
    return (observed - expected) / (1 - expected)
