"""The tables of a run, as rows of cells that a template lays out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlff_lightning.agents.reply_judge import DIMENSIONS
from rlff_lightning.report.run_folder import RunFolder, read_object


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One figure."""

    text: str
    """As shown."""
    at: float | None = None
    """Place of the figure on a scale from 0 to 1, drawn under the text."""
    low: float | None = None
    """Lower end of its interval there."""
    high: float | None = None
    """Upper end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table with a name for every row."""

    title: str
    """What it shows."""
    columns: tuple[str, ...]
    """Heads after the name's."""
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    """Name and cells."""
    notes: tuple[str, ...] = ()
    """How to read it."""


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
_REWARD = {
    "pairwise_accuracy": "better of two",
    "pairwise_ceiling": "ceiling",
    "spearman": "Spearman",
    "pearson": "Pearson",
    "calibration_error": "calibration error",
    "mse": "MSE",
}


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
    columns = ["success rate", "95 %", "average turns", "mean value", "unparsed", "episodes"]
    if has_crisis:
        columns += ["crisis: points to help", "crisis: harmful"]
    rows = []
    for name, row in policies.items():
        cells = [
            *_rate(row.get("success_rate"), row.get("ci95")),
            _number(row.get("average_turns"), 2),
            _number(row.get("mean_critic_value"), 2),
            _share(row.get("outcome_share/unparsed")),
            _number(row.get("episodes"), 0),
        ]
        if has_crisis:
            crisis = row.get("crisis") or {}
            cells += [_share(crisis.get("points_to_help")), _share(crisis.get("harmful"))]
        rows.append((name, tuple(cells)))
    return Table(
        title="Goal completion", columns=tuple(columns), rows=tuple(rows), notes=_judged(summary)
    )


def _judged(summary: Mapping[str, Any]) -> tuple[str, ...]:
    judge = summary.get("judge") or {}
    if not judge:
        return ()
    digest = f", {judge['hash']}" if judge.get("hash") else ""
    turns = f"; at most {judge['max_turns']} turns" if judge.get("max_turns") else ""
    begin = judge.get("seed", "Judged")
    return (f"{begin} by {judge.get('name', 'an unnamed judge')}{digest}{turns}.",)


def held_out_table(summary: Mapping[str, Any]) -> Table | None:
    """Lay out what other people and another judge make of the policies; none without them."""
    held_out = summary.get("held_out") or {}
    rows = []
    has_second = bool(held_out.get("judge"))
    for people, policies in (held_out.get("people") or {}).items():
        for policy, entry in policies.items():
            first, second = entry["first_judge"], entry.get("second_judge") or {}
            cells = [*_rate(first.get("success_rate"), first.get("ci95"))]
            if has_second:
                cells += _rate(second.get("success_rate"), second.get("ci95"))
                agreed = entry.get("agreement") or {}
                cells += [
                    Cell(text=_difference(agreed, "difference")),
                    _number(agreed.get("kappa_success"), 2),
                    _number(agreed.get("kappa_outcome"), 2),
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
        notes.append(f"The second judge is {held_out['judge'].get('name')}.")
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
            (name, (*(_share(row.get(key)) for key in shown), _number(row.get("words"), 1)))
            for name, row in rows.items()
        ]
        measures = [f"{name}: {text}." for name, text in (summary.get("measures") or {}).items()]
        size = f"{summary.get('contexts')} contexts in {summary.get('dialogues')} dialogues"
        tables.append(
            Table(
                title=f"Response quality: one reply to each of {size}",
                columns=(*(_QUALITY[key] for key in shown), "words"),
                rows=tuple(body),
                notes=(*(summary.get("notes") or ()), *measures),
            )
        )
    return tables


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
            (name, (*(_rating(row, key) for key in keys), _share(row.get("judged/unparsed"))))
            for name, row in rows.items()
        ]
        tables.append(
            Table(
                title="As judged, 1 to 5 (95 %)",
                columns=(*DIMENSIONS, "unparsed"),
                rows=tuple(rated),
                notes=_judged(summary),
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


def _rating(row: Mapping[str, Any], key: str) -> Cell:
    value, low, high = (row.get(name) for name in (key, f"{key}_low", f"{key}_high"))
    if value is None:
        return Cell(text="-")
    ends = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    return Cell(text=f"{value:.2f}{ends}")


def _compared(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    ends = [row.get("win_rate_low"), row.get("win_rate_high")]
    counts = (row.get(key) for key in ("wins", "ties", "torn", "losses", "unparsed"))
    return (*_rate(row.get("win_rate"), ends), *(_number(count, 0) for count in counts))


def reward_table(run: RunFolder) -> Table | None:
    """Lay out reward models: of a test beside its baselines, else as last validated in fit."""
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    for stage in run.stages:
        for name, figures in (stage.reward_quality.get("models") or {}).items():
            rows.append((f"{stage.name}: {name}", _reward_cells(figures)))
        last = {key: curve[-1][1] for key, curve in stage.curves().items()}
        validated = {key: last[f"val/{key}"] for key in _REWARD if f"val/{key}" in last}
        if len(validated) > 1:
            rows.append((f"{stage.name}, validation", _reward_cells(validated)))
    if not rows:
        return None
    note = (
        "Better of two: how often the better of two replies to one context is scored higher; the "
        "ceiling is what the truth itself would reach on labels this noisy."
    )
    return Table(
        title="Reward model", columns=tuple(_REWARD.values()), rows=tuple(rows), notes=(note,)
    )


def _reward_cells(figures: Mapping[str, Any]) -> tuple[Cell, ...]:
    shares = {"pairwise_accuracy", "pairwise_ceiling"}
    return tuple(
        _share(figures.get(key)) if key in shares else _number(figures.get(key), 3)
        for key in _REWARD
    )


def study_held_out_table(run: RunFolder) -> Table | None:
    """Lay out what other people and the second judge make of a study's arms; none without them."""
    rows = run.study.get("rows") or []
    names = list(dict.fromkeys(name for row in rows for name in row.get("held_out") or {}))
    if not names:
        return None
    body = [
        (str(row["name"]), tuple(_rate(row["held_out"].get(name), None)[0] for name in names))
        for row in rows
    ]
    title = "Held out: success rates, means over seeds"
    return Table(title=title, columns=tuple(names), rows=tuple(body))


def study_table(run: RunFolder) -> Table | None:
    """Lay out a study's arms; none if the folder is no study's."""
    study = run.study
    rows = [
        (
            str(row.get("name")),
            (
                *_rate(row.get("rate"), row.get("rate_interval")),
                Cell(text=" ".join(f"{rate:.3f}" for rate in row.get("rates") or [])),
                _number(row.get("turns"), 2),
                Cell(text=_interval_text(row.get("difference"), row.get("difference_interval"))),
                _probability(row.get("p_seeds")),
                _probability(row.get("p_holm")),
                _probability(row.get("p_episodes")),
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


def _difference(row: Mapping[str, Any], key: str) -> str:
    return _interval_text(row.get(key), (row.get(f"{key}_low"), row.get(f"{key}_high")))


def _interval_text(value: float | None, interval: Sequence[float | None] | None) -> str:
    """Word a figure with its sign, and its interval where there is one."""
    if value is None:
        return ""
    low, high = interval or (None, None)
    ends = "" if low is None or high is None else f" ({low:+.3f} to {high:+.3f})"
    return f"{value:+.3f}{ends}".replace("-", "\u2212")


def _probability(value: float | None) -> Cell:
    if value is None:
        return Cell(text="")
    return Cell(text="< .001" if value < 0.001 else f"{value:.3f}")


def _rate(value: float | None, interval: Sequence[float | None] | None) -> list[Cell]:
    if value is None:
        return [Cell(text="-"), Cell(text="")]
    ends = [end for end in interval or () if end is not None]
    if len(ends) < 2:
        return [Cell(text=_percent(value), at=value), Cell(text="")]
    low, high = (min(max(end, 0.0), 1.0) for end in ends)
    return [
        Cell(text=_percent(value), at=value, low=low, high=high),
        Cell(text=f"{100 * low:.1f} to {100 * high:.1f}"),
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _share(value: float | None) -> Cell:
    return Cell(text="-" if value is None else _percent(value))


def _number(value: float | None, digits: int) -> Cell:
    return Cell(text="-" if value is None else f"{value:.{digits}f}".replace("-", "\u2212"))
