"""Whether engines follow the trainer from sync to sync, however far apart their precisions are."""

from typing import NamedTuple

from torch import Tensor

CLEAR = 4.0
"""How many times its rounding the trainer must have moved before an engine is judged by it."""

LEAST = 0.2
"""Share of the trainer's change that an engine has to make. One that kept its weights makes none;
one of few bits may round away much of a small change, though its weights are the current ones."""

ROUNDING = 2.5e-6
"""What float32 rounds a log-probability by at least, nats."""


class Scores(NamedTuple):
    """Log-probabilities of the same probe tokens, nats."""

    ours: Tensor
    """The trainer's, ``(N,)``."""
    engines: dict[str, Tensor]
    """Each engine's, ``(N,)``, by its name."""


class Lag(NamedTuple):
    """An engine that stayed behind."""

    engine: str
    """Its name."""
    moved: float
    """Root mean square of the trainer's change, nats."""
    followed: float
    """Share of it that the engine made as well."""


class ChangeProof:
    """Compares how far an engine moved with how far the trainer did, on the same tokens.

    followed = sum(d_engine d_trainer) / sum(d_trainer^2), d since the scores that are kept

    What an engine's quantisation shifts stays as it is and cancels. Rounding does not: it spreads
    the differences between the two sides, and a change within ``CLEAR`` times that spread says
    nothing. The kept scores stay until the trainer has moved further, so that small updates count
    together; how many that takes depends on the engine's precision.
    """

    def __init__(self) -> None:
        self._kept: Scores | None = None

    def lag(self, scores: Scores) -> Lag | None:
        """Take in the scores after a sync.

        Args:
            scores: Of the same tokens each time.

        Returns:
            An engine that made less than ``LEAST`` of the trainer's change; ``None`` if all
            followed, or nothing can be said yet.
        """
        kept = self._kept
        if kept is None:
            self._kept = scores
            return None
        moved = scores.ours - kept.ours
        size = moved.square().mean().sqrt().item()
        is_clear = True
        for name, theirs in scores.engines.items():
            if name not in kept.engines:
                continue
            spread = (kept.ours - kept.engines[name]).std(correction=0).item()
            if size <= CLEAR * max(spread, ROUNDING):
                is_clear = False
                continue
            change = theirs - kept.engines[name]
            followed = (change @ moved / moved.square().sum()).item()
            if followed < LEAST:
                return Lag(name, size, followed)
        if is_clear:
            self._kept = scores
        return None
