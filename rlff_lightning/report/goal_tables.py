"""Goal completion, a run's own and held out, as tables."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rlff_lightning.report.cells import Cell, Table, between, interval_text, number, rate, share
from rlff_lightning.report.run_folder import RunFolder, read_object


def goal_summary(run: RunFolder) -> dict[str, Any]:
    """Give the figures of goal completion: the run's own, or those of its last stage with some.

    Of a study those of every arm under the first seed.
    """
    if cells := run.first_cells:
        arms = {str(cell["arm"]): cell["figures"] for cell in cells}
        seed = f"Under seed {cells[0]['seed']}, judged"
        judge = {"name": run.study.get("judge"), "seed": seed}
        return {"policies": {**cells[0]["references"], **arms}, "judge": judge}
    for folder in (run.folder, *(stage.folder for stage in reversed(run.stages))):
        summary = read_object(folder / "summary.json")
        if isinstance(summary.get("policies"), dict):
            return summary
    return {}


def goal_table(summary: Mapping[str, Any]) -> Table | None:
    """Lay out goal completion; none without policies."""
    policies: Mapping[str, Mapping[str, Any]] = summary.get("policies") or {}
    if not policies:
        return None
    has_crisis = any(row.get("crisis") for row in policies.values())
    columns = [
        "success rate",
        "95 %",
        "average turns",
        "95 %",
        "mean value",
        "unparsed",
        "episodes",
    ]
    if has_crisis:
        columns += ["crisis: points to help", "crisis: harmful"]
    rows = []
    for name, row in policies.items():
        cells = [
            *rate(row.get("success_rate"), row.get("ci95")),
            number(row.get("average_turns"), 2),
            between([row.get(f"average_turns_{end}") for end in ("low", "high")], 2),
            number(row.get("mean_critic_value"), 2),
            share(row.get("outcome_share/unparsed")),
            _episodes(row),
        ]
        if has_crisis:
            crisis = row.get("crisis") or {}
            cells += [share(crisis.get("points_to_help")), share(crisis.get("harmful"))]
        rows.append((name, tuple(cells)))
    return Table(
        title="Goal completion", columns=tuple(columns), rows=tuple(rows), notes=judged_by(summary)
    )


def _episodes(row: Mapping[str, Any]) -> Cell:
    cell = number(row.get("episodes"), 0)
    broken_off = int(row.get("broken_off") or 0)
    return replace(cell, text=f"{cell.text} ({broken_off} broken off)") if broken_off else cell


def judged_by(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the judge of a summary's figures in one note; none where it names none."""
    judge = summary.get("judge") or {}
    if not judge:
        return ()
    turns = f"; at most {judge['max_turns']} turns" if judge.get("max_turns") else ""
    begin = judge.get("seed", "Judged")
    return (f"{begin} by {_named(judge)}{turns}.",)


def _named(judge: Mapping[str, Any]) -> str:
    digest = f", {judge['hash']}" if judge.get("hash") else ""
    return f"{judge.get('name', 'an unnamed judge')}{digest}"


def held_out_table(summary: Mapping[str, Any]) -> Table | None:
    """Lay out what other people and another judge make of the policies; none without them."""
    held_out = summary.get("held_out") or {}
    rows = []
    has_second = bool(held_out.get("judge"))
    for people, policies in (held_out.get("people") or {}).items():
        for policy, entry in policies.items():
            first, second = entry["first_judge"], entry.get("second_judge") or {}
            cells = [*rate(first.get("success_rate"), first.get("ci95"))]
            if has_second:
                cells += rate(second.get("success_rate"), second.get("ci95"))
                agreed = entry.get("agreement") or {}
                ends = agreed.get("difference_low"), agreed.get("difference_high")
                cells += [
                    Cell(text=interval_text(agreed.get("difference"), ends)),
                    number(agreed.get("kappa_success"), 2),
                    number(agreed.get("kappa_outcome"), 2),
                ]
            rows.append((f"{policy}, {people}", tuple(cells)))
    if not rows:
        return None
    columns, notes = ["success rate", "95 %"], []
    if has_second:
        columns += [
            "by the second judge",
            "95 %",
            "first less second (95 %)",
            "kappa",
            "kappa of turns",
        ]
        notes.append(f"The second judge is {_named(held_out['judge'])}.")
    return Table(title="Held out", columns=tuple(columns), rows=tuple(rows), notes=tuple(notes))


def outcome_shares(summary: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Give the share of each of the critic's outcomes by policy; policies without are left out."""
    prefix = "outcome_share/"
    found = {
        name: {
            key.removeprefix(prefix): float(value)
            for key, value in row.items()
            if key.startswith(prefix) and value is not None
        }
        for name, row in (summary.get("policies") or {}).items()
    }
    return {name: shares for name, shares in found.items() if shares}
