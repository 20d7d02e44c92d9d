"""A reward model beside its baselines on held-out dialogues, for people and for later stages."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlff_lightning.modules.reward_figures import Quality, quality_of, reliability_of, slices_of
from rlff_lightning.types import LabelledReply

FILE = "quality.json"


def report_quality(
    scores: Mapping[str, Tensor],
    train: Sequence[LabelledReply],
    held_out: Sequence[LabelledReply],
    folder: Path | None,
) -> Quality:
    """Measure models on the same replies; write ``quality.json`` and print it as tables.

    Args:
        scores: Of each model, ``(N,)``; the first is the one that the report is about.
        train: What they were trained on.
        held_out: N labelled replies.
        folder: Where to write; ``None`` neither writes nor prints.

    Returns:
        The first model's figures by name, the others' as ``MODEL/NAME``.
    """
    first, own = next(iter(scores.items()))
    models = {name: quality_of(held_out, predicted) for name, predicted in scores.items()}
    if folder is not None:
        slices = slices_of(held_out, own)
        content = {
            "models": models,
            "slices": slices,
            "reliability": reliability_of(held_out, own),
            "train": _sizes(train),
            "test": _sizes(held_out),
        }
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_finite(content), indent=1) + "\n"
        (folder / FILE).write_text(text, encoding="utf-8")
        _print(models, slices, _sizes(train), _sizes(held_out))
    return {
        key if name == first else f"{name}/{key}": value
        for name, figures in models.items()
        for key, value in figures.items()
    }


def _print(
    models: Mapping[str, Quality],
    slices: Mapping[str, Mapping[str, Quality]],
    old: Mapping[str, int],
    new: Mapping[str, int],
) -> None:
    console = Console()
    # Without frames, and intervals below their figures: it fits into 80 columns.
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        title=f"Future-oriented reward of {new['replies']} replies in {new['dialogues']} held-out "
        f"dialogues\n(trained on {old['replies']} replies in {old['dialogues']}); 95 % by dialogue",
    )
    table.add_column("model", no_wrap=True)
    # Pairs are of replies to one context: human dialogues have none.
    for column in ("Spearman", "MSE", "pairs", "calib."):
        table.add_column(column, justify="right", no_wrap=True)
    for name, figures in models.items():
        table.add_row(
            name,
            _bounded(figures, "spearman").replace(" (", "\n("),
            _bounded(figures, "mse").replace(" (", "\n("),
            _bounded(figures, "pairwise_accuracy").replace(" (", "\n("),
            _shown(figures["calibration_error"]),
        )
    console.print(table)
    ceiling = next(iter(models.values()))["pairwise_ceiling"]
    if math.isfinite(ceiling):
        console.print(f"Labels this uncertain allow {ceiling:.3f} of the pairs.")
    table = Table(box=SIMPLE_HEAD, title="reward_model by turn of the reply and by kind of problem")
    for column in ("", "replies", "Spearman", "MSE", "pairs"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for kind, parts in slices.items():
        for name, figures in parts.items():
            table.add_row(
                f"{kind} {name}",
                str(int(figures["replies"])),
                _bounded(figures, "spearman").replace(" (", "\n("),
                _shown(figures["mse"]),
                _shown(figures["pairwise_accuracy"]),
            )
    console.print(table)


def _sizes(records: Sequence[LabelledReply]) -> dict[str, int]:
    return {
        "dialogues": len({record.context.source for record in records}),
        "replies": len(records),
    }


def _bounded(figures: Quality, name: str) -> str:
    value, low, high = (figures.get(key, math.nan) for key in (name, f"{name}_low", f"{name}_high"))
    if not (math.isfinite(value) and math.isfinite(low)):
        return _shown(value)
    return f"{value:.3f} ({low:.3f} … {high:.3f})"


def _shown(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _finite(content: Any) -> Any:
    """Let a figure that is not defined be null: JSON knows no nan."""
    match content:
        case dict():
            return {key: _finite(value) for key, value in content.items()}
        case list():
            return [_finite(value) for value in content]
        case float():
            return content if math.isfinite(content) else None
    return content
