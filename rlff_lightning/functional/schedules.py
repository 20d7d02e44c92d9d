"""Learning-rate schedules as functions of the step."""

import math
from collections.abc import Callable


def warmup_cosine(
    num_steps: int, *, warmup_fraction: float, floor: float = 0.0
) -> Callable[[int], float]:
    """Rise linearly, then fall along half a cosine.

    f(s) = (s + 1) / w                                           for s < w = warmup_fraction * S
    f(s) = floor + (1 - floor) (1 + cos(pi (s - w) / (S - w))) / 2   after

    Args:
        num_steps: Optimizer steps of the run, S.
        warmup_fraction: Share of them in which the factor rises to 1.
        floor: Factor at the end, 0 to 1.

    Returns:
        The factor by step, in [0, 1].
    """
    warmup = max(1, round(warmup_fraction * num_steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return factor
