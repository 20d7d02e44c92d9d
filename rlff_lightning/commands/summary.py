"""A run's summary: the last stage's figures with the time that all stages took."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rlff_lightning.commands.markers import DONE, read_marker, write_json
from rlff_lightning.commands.stages import Stage


def write_summary(run: Path, stages: Sequence[Stage]) -> None:
    """Write `summary.json` from the last finished stage's, with `wall_s`, and print its policies.

    Nothing is written where that stage wrote none.
    """
    finished = [stage for stage in stages if (run / stage.name / DONE).is_file()]
    source = run / finished[-1].name / "summary.json" if finished else None
    if source is None or not source.is_file():
        sys.stdout.write(f"wrote {run}\n")
        return
    summary: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    walls = [read_marker(run, stage.name, DONE)["wall_s"] for stage in finished]
    summary["wall_s"] = round(sum(walls), 3)
    write_json(run / "summary.json", summary)
    if policies := summary.get("policies"):
        _print(policies, summary.get("judge"))
    sys.stdout.write(f"{len(finished)} stages in {summary['wall_s']:.0f} s\n")
    sys.stdout.write(f"wrote {run / 'summary.json'}\n")


def _print(policies: Mapping[str, Mapping[str, Any]], judge: Any) -> None:
    name = judge.get("name") if isinstance(judge, Mapping) else judge
    table = Table(title=f"Goal completion, judged by {name}" if name else "Goal completion")
    table.add_column("policy")
    for column in ("success rate", "95 % interval", "average turns", "episodes"):
        table.add_column(column, justify="right")
    for policy, row in policies.items():
        low, high = row["ci95"]
        table.add_row(
            policy,
            f"{row['success_rate']:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{row['average_turns']:.2f}",
            str(row["episodes"]),
        )
    Console().print(table)
