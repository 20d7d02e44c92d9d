"""Response quality and a judge's word on replies as tables."""

from collections.abc import Mapping
from typing import Any

from rlff_lightning.agents.reply_judge import DIMENSIONS
from rlff_lightning.report.cells import Cell, Table, number, rate, share
from rlff_lightning.report.goal_tables import judged_by
from rlff_lightning.report.run_folder import RunFolder

_QUALITY = {
    "bleu_2": "BLEU-2",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR",
    "meteor_no_synonyms": "METEOR, no synonyms",
    "bert_score": "BERTScore",
    "strategy_accuracy": "strategy",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "repetition": "repeated",
}

_SHARE = "strategy_share/"


def quality_tables(run: RunFolder) -> list[Table]:
    """Lay out response quality, a table per stage that measured it."""
    tables = []
    for stage in run.stages:
        summary = stage.summary
        rows: Mapping[str, Mapping[str, Any]] = summary.get("supporters") or {}
        shown = [key for key in _QUALITY if any(key in row for row in rows.values())]
        if "words" not in set().union(*rows.values(), ()):
            continue
        body = [
            (name, (*(_percent(row, key) for key in shown), _figure(row, "words", 1)))
            for name, row in rows.items()
        ]
        measures = [f"{name}: {text}." for name, text in (summary.get("measures") or {}).items()]
        size = f"{summary.get('contexts')} contexts in {summary.get('dialogues')} dialogues"
        tables.append(
            Table(
                title=f"Response quality: one reply to each of {size} (95 %)",
                columns=(*(_QUALITY[key] for key in shown), "words"),
                rows=tuple(body),
                notes=(*(summary.get("notes") or ()), *measures),
            )
        )
        tables += _strategies(rows)
    return tables


def _strategies(rows: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    names = list(
        dict.fromkeys(key for row in rows.values() for key in row if key.startswith(_SHARE))
    )
    if not names:
        return []
    body = [(name, tuple(share(row.get(key)) for key in names)) for name, row in rows.items()]
    columns = tuple(key.removeprefix(_SHARE) for key in names)
    return [Table(title="Strategies that replies follow", columns=columns, rows=tuple(body))]


def _percent(row: Mapping[str, Any], key: str) -> Cell:
    keys = (key, f"{key}_low", f"{key}_high")
    scaled = {name: 100 * value for name in keys if (value := row.get(name)) is not None}
    return _figure(scaled, key, 1)


def judged_tables(run: RunFolder) -> list[Table]:
    """Lay out what a judge of replies says, per stage: ratings, and supporters two by two."""
    tables = []
    for stage in run.stages:
        summary = stage.summary
        if not isinstance(summary.get("comparisons"), list):
            continue
        rows: Mapping[str, Mapping[str, Any]] = summary.get("supporters") or {}
        keys = [f"judged/{name}" for name in DIMENSIONS]
        rated = [
            (name, (*(_figure(row, key, 2) for key in keys), share(row.get("judged/unparsed"))))
            for name, row in rows.items()
        ]
        tables.append(
            Table(
                title="As judged, 1 to 5 (95 %)",
                columns=(*DIMENSIONS, "unparsed"),
                rows=tuple(rated),
                notes=judged_by(summary),
            )
        )
        compared = [
            (f"{row['first']} against {row['second']}", _compared(row))
            for row in summary["comparisons"]
        ]
        if compared:
            note = "A win is said in both orders; of the ties, the torn ones follow the place."
            columns = ("win rate", "95 %", "wins", "ties", "torn", "losses", "unparsed")
            title = "Two by two, every pair in both orders"
            tables.append(Table(title=title, columns=columns, rows=tuple(compared), notes=(note,)))
    return tables


def _figure(row: Mapping[str, Any], key: str, digits: int) -> Cell:
    value, low, high = (row.get(name) for name in (key, f"{key}_low", f"{key}_high"))
    if value is None:
        return Cell(text="-")
    ends = "" if low is None or high is None else f" ({low:.{digits}f} to {high:.{digits}f})"
    return Cell(text=f"{value:.{digits}f}{ends}")


def _compared(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    ends = [row.get("win_rate_low"), row.get("win_rate_high")]
    counts = (row.get(key) for key in ("wins", "ties", "torn", "losses", "unparsed"))
    return (*rate(row.get("win_rate"), ends), *(number(count, 0) for count in counts))
