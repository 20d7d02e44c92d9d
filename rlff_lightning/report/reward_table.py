"""Reward models beside their baselines as a table."""

from collections.abc import Mapping
from typing import Any

from rlff_lightning.report.cells import Cell, Table, number, share
from rlff_lightning.report.run_folder import RunFolder

_REWARD = {
    "pairwise_accuracy": "better of two",
    "pairwise_ceiling": "ceiling",
    "spearman": "Spearman",
    "pearson": "Pearson",
    "calibration_error": "calibration error",
    "mse": "MSE",
}


def reward_table(run: RunFolder) -> Table | None:
    """Lay out reward models: of a test beside its baselines, else as last validated in fit."""
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    for stage in run.stages:
        for name, figures in (stage.reward_quality.get("models") or {}).items():
            rows.append((f"{stage.name}: {name}", _reward_cells(figures)))
        last = {key: curve[-1][1] for key, curve in stage.curves().items()}
        validated = {key: last[f"val/{key}"] for key in _REWARD if f"val/{key}" in last}
        if len(validated) > 1:
            rows.append((f"{stage.name}, validation", _reward_cells(validated)))
    if not rows:
        return None
    note = (
        "Better of two: how often the better of two replies to one context is scored higher; the "
        "ceiling is what the truth itself would reach on labels this noisy."
    )
    return Table(
        title="Reward model", columns=tuple(_REWARD.values()), rows=tuple(rows), notes=(note,)
    )


def _reward_cells(figures: Mapping[str, Any]) -> tuple[Cell, ...]:
    shares = {"pairwise_accuracy", "pairwise_ceiling"}
    return tuple(
        share(figures.get(key)) if key in shares else number(figures.get(key), 3) for key in _REWARD
    )
