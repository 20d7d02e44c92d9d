"""A reward model beside its baselines on held-out dialogues, for people and for later stages."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlff_lightning.metrics.by_dialogue import RankCorrelation
from rlff_lightning.metrics.reward import RewardQuality
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import LabelledReply

Quality = dict[str, float]
"""Figures of one model by name."""

FILE = "quality.json"


def quality_of(records: Sequence[LabelledReply], scores: Tensor) -> Quality:
    """Measure scores of labelled replies.

    Args:
        records: N labelled replies.
        scores: Predicted rewards, ``(N,)``.

    Returns:
        What ``RewardQuality`` gives, and the 95 % interval of ``spearman`` over dialogues.
    """
    labels = torch.tensor([record.value for record in records])
    quality = RewardQuality()
    quality.update(
        scores,
        labels,
        torch.tensor([record.standard_error for record in records]),
        torch.tensor([derive_seed(record.context.id) for record in records]),
    )
    correlation = RankCorrelation()
    dialogues = [derive_seed(record.context.source) for record in records]
    correlation.update(scores, labels, torch.tensor(dialogues))
    return quality.compute() | correlation.compute().named("spearman")


def write_quality(
    quality: Mapping[str, Quality],
    train: Sequence[LabelledReply],
    held_out: Sequence[LabelledReply],
    folder: Path,
) -> None:
    """Write ``quality.json``; a figure that is not defined is null."""
    content = {
        "models": {
            name: {key: value if math.isfinite(value) else None for key, value in figures.items()}
            for name, figures in quality.items()
        },
        "train": _sizes(train),
        "test": _sizes(held_out),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def print_quality(
    quality: Mapping[str, Quality],
    train: Sequence[LabelledReply],
    held_out: Sequence[LabelledReply],
) -> None:
    """Print the comparison as a table."""
    old, new = _sizes(train), _sizes(held_out)
    table = Table(
        title=f"Future-oriented reward of {new['replies']} replies in {new['dialogues']} held-out "
        f"dialogues\n(trained on {old['replies']} replies in {old['dialogues']})"
    )
    table.add_column("intervals by dialogue", no_wrap=True)
    # Pairs are of replies to one context: human dialogues have none.
    for column in ("Spearman", "95 %", "Pearson", "MSE", "pairs"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, figures in quality.items():
        interval = f"{figures['spearman_low']:.3f} … {figures['spearman_high']:.3f}"
        is_defined = math.isfinite(figures["spearman"])
        table.add_row(
            name,
            _shown(figures["spearman"]),
            interval if is_defined else "-",
            _shown(figures["pearson"]) if is_defined else "-",
            f"{figures['mse']:.4f}",
            _shown(figures["pairwise_accuracy"]),
        )
    Console().print(table)


def _sizes(records: Sequence[LabelledReply]) -> dict[str, int]:
    return {
        "dialogues": len({record.context.source for record in records}),
        "replies": len(records),
    }


def _shown(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"
