"""A run's summary: the last stage's figures with the time that all stages took."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlff_lightning.commands.markers import DONE, Plan, read_marker, write_json
from rlff_lightning.modules.goal_table import print_goal


def write_summary(run: Path, plans: Sequence[Plan]) -> None:
    """Write `summary.json` from the last finished stage's, with `wall_s`, and print its policies.

    A stage that has changed since it ran is not finished. Where the last finished one wrote no
    summary none is written, and an older one goes: it would tell of another run.
    """
    markers = {plan.stage.name: read_marker(run, plan.stage.name, DONE) for plan in plans}
    finished = [
        plan.stage
        for plan in plans
        if markers[plan.stage.name].get("fingerprint") == plan.fingerprint
    ]
    source = run / finished[-1].name / "summary.json" if finished else None
    if source is None or not source.is_file():
        (run / "summary.json").unlink(missing_ok=True)
        sys.stdout.write(f"wrote {run}\n")
        return
    summary: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    walls = [markers[stage.name]["wall_s"] for stage in finished]
    summary["wall_s"] = round(sum(walls), 3)
    write_json(run / "summary.json", summary)
    if summary.get("policies"):
        print_goal(summary)
    sys.stdout.write(f"{len(finished)} stages in {summary['wall_s']:.0f} s\n")
    sys.stdout.write(f"wrote {run / 'summary.json'}\n")
