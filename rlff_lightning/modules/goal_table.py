"""The result of an evaluation as tables for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_goal(summary: Mapping[str, Any]) -> None:
    """Print a goal completion's `summary.json`: policies, judge, crisis care, what was held out."""
    # Names may hold brackets, which are not markup.
    console = Console(markup=False)
    console.print(_policies(summary))
    if summary.get("judge"):
        text = "judged by " + _named(summary["judge"])
        console.print(text, highlight=False, soft_wrap=True)
    held_out = summary.get("held_out") or {}
    if held_out:
        console.print(_held_out(held_out))
    if held_out.get("judge"):
        text = "second judge: " + _named(held_out["judge"])
        console.print(text, highlight=False, soft_wrap=True)


def _policies(summary: Mapping[str, Any]) -> Table:
    policies = summary["policies"]
    has_crisis = any("crisis" in row for row in policies.values())
    table = _table("Goal completion (95 % below)")
    table.add_column("policy", no_wrap=True)
    columns = ["success rate", "average turns", "episodes", "unparsed"]
    if has_crisis:
        columns += ["crisis: points to help", "crisis: harmful"]
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in policies.items():
        cells = [
            _rate(row),
            _turns(row),
            _episodes(row),
            _share(row.get("outcome_share/unparsed")),
        ]
        if has_crisis:
            crisis = row.get("crisis") or {}
            cells += [_share(crisis.get("points_to_help")), _share(crisis.get("harmful"))]
        table.add_row(Text(name), *cells)
    return table


def _table(title: str) -> Table:
    # Light lines and intervals on a line of their own: it must fit into 80 columns.
    return Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))


def _held_out(held_out: Mapping[str, Any]) -> Table:
    table = _table("Held out (95 % below)")
    table.add_column("people", no_wrap=True)
    table.add_column("policy", no_wrap=True)
    columns = ["success rate"]
    has_second = "judge" in held_out
    if has_second:
        columns += ["second judge", "first less second", "kappa", "of turns"]
    for column in columns:
        table.add_column(column, justify="right")
    for people, policies in held_out["people"].items():
        for name, entry in policies.items():
            cells = [_rate(entry["first_judge"])]
            if has_second:
                agreed = entry["agreement"]
                ends = f"{agreed['difference_low']:+.3f} to {agreed['difference_high']:+.3f}"
                cells += [
                    _rate(entry["second_judge"]),
                    f"{agreed['difference']:+.3f}\n{ends}",
                    _kappa(agreed["kappa_success"]),
                    _kappa(agreed["kappa_outcome"]),
                ]
            table.add_row(Text(people), Text(name), *cells)
    return table


def _rate(row: Mapping[str, Any]) -> str:
    low, high = row["ci95"]
    return f"{row['success_rate']:.3f}\n{low:.3f} to {high:.3f}"


def _turns(row: Mapping[str, Any]) -> str:
    low, high = (row.get(f"average_turns_{end}") for end in ("low", "high"))
    # Summaries of before these were measured have none.
    ends = "" if low is None or high is None else f"\n{low:.2f} to {high:.2f}"
    return f"{row['average_turns']:.2f}{ends}"


def _named(judge: Any) -> str:
    if not isinstance(judge, Mapping):
        return str(judge)
    return f"{judge['name']} #{judge['hash']}" if "hash" in judge else str(judge["name"])


def _episodes(row: Mapping[str, Any]) -> str:
    broken_off = int(row.get("broken_off", 0))
    return f"{row['episodes']} ({broken_off} broken off)" if broken_off else str(row["episodes"])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _kappa(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
