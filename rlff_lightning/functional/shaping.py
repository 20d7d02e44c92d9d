"""Penalties on the form of a completion: too long, or going round in circles."""

import torch
from torch import Tensor

from rlff_lightning.errors import UserError


def overlong_penalty(num_tokens: Tensor, *, max_tokens: int, buffer_tokens: int) -> Tensor:
    """Punish completions that come close to the limit, linearly over a buffer before it.

    R = 0 up to L_max - L_cache, ((L_max - L_cache) - |y|) / L_cache within the buffer, -1 beyond

    Args:
        num_tokens: Length of each completion, ``(B,)``, tokens.
        max_tokens: Limit of a completion, L_max, tokens.
        buffer_tokens: Length of the buffer, L_cache, tokens; in ``[1, max_tokens]``.

    Returns:
        One penalty per completion, ``(B,)``, in ``[-1, 0]``; added to the reward.

    Raises:
        UserError: If the buffer does not fit.

    Source: Yu et al. 2025, arXiv:2503.14476, eq. 13.
    """
    if not 1 <= buffer_tokens <= max_tokens:
        raise UserError(
            f"overlong_penalty.buffer_tokens must be in [1, max_tokens={max_tokens}], "
            f"got {buffer_tokens!r}"
        )
    excess = num_tokens - (max_tokens - buffer_tokens)
    return -(excess / buffer_tokens).clamp(0, 1)


def repetition_penalty(completion_ids: Tensor, mask: Tensor, *, ngram_size: int = 3) -> Tensor:
    """Punish completions by the share of their n-grams that were there before.

    R = num_unique / num_ngrams - 1

    Args:
        completion_ids: Token ids, ``(B, T)``.
        mask: Tokens to look at, ``(B, T)``; each row's are adjacent.
        ngram_size: Length of an n-gram, tokens.

    Returns:
        One penalty per completion, ``(B,)``, in ``(-1, 0]``; 0 where there is no n-gram.

    Raises:
        UserError: If ``ngram_size`` is below 1.

    Source: Yeo et al. 2025, arXiv:2502.03373, app. C.2.
    """
    if ngram_size < 1:
        raise UserError(f"repetition_penalty.ngram_size must be at least 1, got {ngram_size!r}")
    penalties = [
        _unique_share(ids[kept], ngram_size) - 1
        for ids, kept in zip(completion_ids, mask, strict=True)
    ]
    return torch.tensor(penalties, device=completion_ids.device)


def _unique_share(ids: Tensor, ngram_size: int) -> float:
    if len(ids) < ngram_size:
        return 1.0
    tokens = ids.tolist()
    ngrams = [tuple(tokens[i : i + ngram_size]) for i in range(len(tokens) - ngram_size + 1)]
    return len(set(ngrams)) / len(ngrams)
