"""A run's summary: the last stage's figures with the time that all stages took."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlff_lightning.commands.markers import DONE, read_marker, write_json
from rlff_lightning.commands.stages import Stage
from rlff_lightning.modules.goal_table import print_goal


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
    if summary.get("policies"):
        print_goal(summary)
    sys.stdout.write(f"{len(finished)} stages in {summary['wall_s']:.0f} s\n")
    sys.stdout.write(f"wrote {run / 'summary.json'}\n")
