"""A study's arms as tables."""

from collections.abc import Mapping
from typing import Any

from rlff_lightning.report.cells import (
    Cell,
    Table,
    between,
    interval_text,
    number,
    probability,
    rate,
)
from rlff_lightning.report.run_folder import RunFolder

_AGREED = {
    "difference": "first less second",
    "kappa_success": "kappa",
    "kappa_outcome": "kappa of turns",
}
"""Columns of how two judges agree."""


def study_table(run: RunFolder) -> Table | None:
    """Lay out a study's arms; none if the folder is no study's."""
    study = run.study
    rows = [
        (
            str(row.get("name")),
            (
                *rate(row.get("rate"), row.get("rate_interval")),
                Cell(text=" ".join(f"{one:.3f}" for one in row.get("rates") or [])),
                number(row.get("turns"), 2),
                between(row.get("turns_interval"), 2),
                Cell(text=interval_text(row.get("difference"), row.get("difference_interval"))),
                probability(row.get("p_seeds")),
                probability(row.get("p_holm")),
                probability(row.get("p_episodes")),
            ),
        )
        for row in study.get("rows") or []
    ]
    if not rows:
        return None
    return Table(
        title=f"Study: {study.get('study')}",
        columns=(
            "success rate, mean over seeds",
            "95 %",
            "of each seed",
            "average turns",
            "95 %",
            "less the baseline's (95 %)",
            "p, seeds",
            "p, Holm",
            "p, episodes",
        ),
        rows=tuple(rows),
        notes=(
            f"Judged by {study.get('judge')}. The baseline is {study.get('baseline')}.",
            "p, seeds: paired t test over seeds, would new training runs differ as well? p, Holm: "
            "corrected for the number of arms. p, episodes: McNemar's exact test over the same "
            "people, do these very policies differ?",
        ),
    )


def study_held_out_table(run: RunFolder) -> Table | None:
    """Lay out what other people and the second judge make of a study's arms; none without them."""
    rows = run.study.get("rows") or []
    names = list(dict.fromkeys(name for row in rows for name in row.get("held_out") or {}))
    if not names:
        return None
    body = [
        (str(row["name"]), tuple(cell for name in names for cell in _held_out_rate(row, name)))
        for row in rows
    ]
    return Table(
        title="Held out: success rates, means over seeds",
        columns=tuple(column for name in names for column in (name, "95 %")),
        rows=tuple(body),
        notes=_second_judge(run),
    )


def _held_out_rate(row: Mapping[str, Any], name: str) -> list[Cell]:
    return rate(
        (row.get("held_out") or {}).get(name), (row.get("held_out_intervals") or {}).get(name)
    )


def study_agreement_table(run: RunFolder) -> Table | None:
    """Lay out how a study's two judges agree, by arm and people; none without a second judge."""
    body = []
    for row in run.study.get("rows") or []:
        agreed, ends = row.get("agreement") or {}, row.get("agreement_intervals") or {}
        for people in dict.fromkeys(key.rpartition("/")[0] for key in agreed):
            cells = [
                Cell(text=interval_text(agreed.get(key), ends.get(key)))
                for key in (f"{people}/{name}" for name in _AGREED)
            ]
            body.append((f"{row['name']}, {people}", tuple(cells)))
    if not body:
        return None
    return Table(
        title="Held out: how the two judges agree, means over seeds (95 %)",
        columns=tuple(_AGREED.values()),
        rows=tuple(body),
        notes=_second_judge(run),
    )


def _second_judge(run: RunFolder) -> tuple[str, ...]:
    judge = run.study.get("second_judge")
    return (f"The second judge is {judge}.",) if judge else ()
