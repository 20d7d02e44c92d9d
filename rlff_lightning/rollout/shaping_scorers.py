"""Terms of the reward that look at a completion's tokens: too long, or going round in circles."""

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from rlff_lightning.errors import UserError
from rlff_lightning.functional.shaping import overlong_penalty, repetition_penalty
from rlff_lightning.rollout.experience import pad
from rlff_lightning.rollout.scorers import Learning, Sampled, Scorer


class OverlongScorer(Scorer):
    """0 to -1 over the last tokens before the limit: gentler than a penalty for being cut off.

    Source: Yu et al. 2025, arXiv:2503.14476, eq. 13.

    Args:
        buffer_tokens: Tokens before the limit over which the penalty grows.
        max_tokens: Limit of a completion, tokens; ``null`` takes the rollout's.
        weight: Size of the penalty at the limit.
    """

    name = "overlong"
    reads_tokens = True

    def __init__(
        self, buffer_tokens: int, max_tokens: int | None = None, weight: float = 1.0
    ) -> None:
        super().__init__(weight)
        self.buffer_tokens = buffer_tokens
        self.max_tokens = max_tokens
        self._check()

    @override
    def attach(self, learning: Learning) -> None:
        if self.max_tokens is None:
            self.max_tokens = learning.sampling.max_tokens
        self._check()

    @override
    def score(self, samples: Sequence[Sampled]) -> Tensor:
        if self.max_tokens is None:
            raise UserError(
                "OverlongScorer.max_tokens must be given where no policy is trained, got null"
            )
        lengths = torch.tensor([len(sample.token_ids) for sample in samples])
        return overlong_penalty(
            lengths, max_tokens=self.max_tokens, buffer_tokens=self.buffer_tokens
        )

    def _check(self) -> None:
        limit = self.max_tokens or self.buffer_tokens
        if not 1 <= self.buffer_tokens <= limit:
            raise UserError(
                f"OverlongScorer.buffer_tokens must be in [1, max_tokens={self.max_tokens}], "
                f"got {self.buffer_tokens!r}"
            )


class TokenRepetitionScorer(Scorer):
    """Minus the share of a completion's token n-grams that it has said before.

    Source: Yeo et al. 2025, arXiv:2502.03373, app. C.2.

    Args:
        ngram_size: Tokens of an n-gram.
        weight: Factor of the penalty.
    """

    name = "token_repetition"
    reads_tokens = True

    def __init__(self, ngram_size: int = 3, weight: float = 1.0) -> None:
        super().__init__(weight)
        if ngram_size < 1:
            raise UserError(
                f"TokenRepetitionScorer.ngram_size must be at least 1, got {ngram_size!r}"
            )
        self.ngram_size = ngram_size

    @override
    def score(self, samples: Sequence[Sampled]) -> Tensor:
        ids, mask = pad([sample.token_ids for sample in samples])
        return repetition_penalty(ids, mask, ngram_size=self.ngram_size)
