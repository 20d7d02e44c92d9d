"""A study's arms as tables."""

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
        (str(row["name"]), tuple(rate(row["held_out"].get(name), None)[0] for name in names))
        for row in rows
    ]
    title = "Held out: success rates, means over seeds"
    return Table(title=title, columns=tuple(names), rows=tuple(body))
