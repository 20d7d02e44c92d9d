"""Draw how far a tested reward model's scores can be taken at their word."""

import json
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override


class ReliabilityPlot(Callback):
    """Write ``reliability.png`` from the ``quality.json`` that the reward model's test writes.

    Mean label over mean score of similar scores; a point's area grows with its replies. Points on
    the diagonal are right on average.
    """

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        file = Path(trainer.default_root_dir) / "quality.json"
        if trainer.is_global_zero and file.is_file():
            points = json.loads(file.read_text(encoding="utf-8"))["reliability"]
            draw(points, file.with_name("reliability.png"))


def draw(points: list[dict[str, float]], path: Path) -> None:
    """Draw a reliability plot.

    Args:
        points: Mean score ``predicted``, mean label ``observed`` and number of ``replies`` each.
        path: A PNG file.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    if not points:
        return
    predicted, observed, replies = (
        [point[name] for point in points] for name in ("predicted", "observed", "replies")
    )
    figure, axis = plt.subplots(figsize=(3.6, 3.2), layout="constrained")
    low, high = min(predicted + observed), max(predicted + observed)
    axis.plot([low, high], [low, high], color="gray", linewidth=1)
    most = max(replies)
    axis.scatter(predicted, observed, s=[120 * count / most + 4 for count in replies], alpha=0.7)
    axis.set(title="reliability", xlabel="mean score", ylabel="mean label")
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
