"""What a rollout has to log, of all processes together."""

import math

from rlff_lightning.rollout.ranks import of_all_ranks

_STD = "rollout/reward_std"


def across_ranks(report: dict[str, float]) -> dict[str, float]:
    """Bring the reports of all processes together; all must call this.

    Every process has as many completions, so means and shares are means over processes. Tokens
    add up, a phase takes as long as its slowest process, and a spread is that of all completions:
    var = mean(var_i + (mean_i - mean)^2), which for the n - 1 of each is short by a factor below
    1 + 1 / n.

    Args:
        report: This process's, by log key.

    Returns:
        The same keys, and those that other processes alone have.
    """
    reports = of_all_ranks(report)
    if len(reports) == 1:
        return report
    merged = {}
    for name in dict.fromkeys(name for one in reports for name in one):
        values = [one[name] for one in reports if name in one]
        mean = sum(values) / len(values)
        if name == "rollout/tokens":
            merged[name] = sum(values)
        elif name.startswith("time/"):
            merged[name] = max(values)
        elif name.startswith(_STD):
            means = [one[name.replace(_STD, "rollout/reward")] for one in reports if name in one]
            middle = sum(means) / len(means)
            parts = zip(values, means, strict=True)
            merged[name] = math.sqrt(
                sum(std**2 + (own - middle) ** 2 for std, own in parts) / len(means)
            )
        else:
            merged[name] = mean
    return merged
