"""Draw what was logged, once training ends."""

from pathlib import Path

import pandas as pd
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from typing_extensions import override

from rlff_lightning.errors import UserError

_WINDOW = 5
"""Points of the running mean beside the raw curve."""


class LearningCurves(Callback):
    """Write ``learning_curves.png`` from the CSV logger's metrics.

    Args:
        keys: Log keys to draw, one panel each; a key that was never logged is left out.
    """

    def __init__(self, keys: list[str]) -> None:
        if not keys:
            raise UserError("LearningCurves.keys must name a log key, got none")
        self.keys = keys

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loggers = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]
        if not trainer.is_global_zero or not loggers:
            return
        loggers[0].finalize("success")
        file = Path(loggers[0].log_dir) / "metrics.csv"
        if file.is_file():
            draw(pd.read_csv(file), self.keys, file.with_name("learning_curves.png"))


def draw(metrics: pd.DataFrame, keys: list[str], path: Path) -> None:
    """Draw one panel per key over optimizer steps, with a running mean."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    present = [key for key in keys if key in metrics and metrics[key].notna().any()]
    if not present:
        return
    figure, axes = plt.subplots(
        1, len(present), figsize=(3.6 * len(present), 2.8), squeeze=False, layout="constrained"
    )
    for axis, key in zip(axes[0], present, strict=True):
        points = metrics[["step", key]].dropna()
        axis.plot(points["step"], points[key], color="tab:blue", alpha=0.35)
        smooth = points[key].rolling(_WINDOW, min_periods=1).mean()
        axis.plot(points["step"], smooth, color="tab:blue")
        axis.set(title=key, xlabel="optimizer step")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
