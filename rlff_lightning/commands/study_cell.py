"""Reads one finished run of a study: its figures, and under what terms they were measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlff_lightning.commands.markers import DONE, read_marker
from rlff_lightning.commands.stages import Stage
from rlff_lightning.commands.study_file import Study
from rlff_lightning.errors import UserError
from rlff_lightning.modules.goal_settings import MAIN
from rlff_lightning.report.run_folder import read_lines, read_object

HELD_OUT = "held_out/"
"""Begins the keys of what other people and the second judge say."""
AGREED = ("difference", "kappa_success", "kappa_outcome")
"""What tells how two judges agree."""
AGREEMENT = "agreement/"
"""Begins the keys of how the two judges agree, by people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One finished run: an arm under a seed."""

    arm: str
    seed: int
    figures: Mapping[str, Any]
    """The policy's row of the run's `summary.json`."""
    references: Mapping[str, Mapping[str, Any]]
    """Rows of the policies that do not depend on the arm."""
    terms: Mapping[str, str]
    """What must be equal wherever figures are compared: `judge`, `second judge`, `protocol`."""
    wall_s: float
    """Of all its stages, those taken from another arm's run included."""
    is_success: Mapping[str, bool]
    """Success by episode, for pairing."""
    markers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What each stage said of itself when it ended."""


def is_finished(run: Path, stages: Sequence[Stage]) -> bool:
    """Tell whether a run has ended, and no stage was made anew after another had read it."""
    done = {stage.name: read_marker(run, stage.name, DONE) for stage in stages}
    reads = [item for marker in done.values() for item in marker.get("reads", {}).items()]
    return bool(done[stages[-1].name]) and all(
        done[name].get("fingerprint") == read
        for name, read in reads
        # What only takes room may have been deleted since.
        if (run / name).is_dir()
    )


def read_cell(run: Path, study: Study, arm: str, seed: int) -> Cell:
    """Read a finished run.

    The policy's figures are those of the run's summary, and so those of its last stage. Those of a
    reference may also come from an earlier stage, which arms that do not change it share.

    Raises:
        UserError: If it has no summary, a policy is in none, its terms differ, or a file is
            damaged.
    """
    file = run / "summary.json"
    if not file.is_file():
        raise UserError(f"{run}: the pipeline's last stage must write summary.json")
    summary = read_object(file)
    earlier = [
        read_object(found)
        for stage in reversed(study.stages[:-1])
        if (found := run / stage.name / "summary.json").is_file()
    ]
    rows = {
        name: _row_of(name, [summary] if name == study.policy else [summary, *earlier], file)
        for name in (study.policy, *study.references)
    }
    return Cell(
        arm=arm,
        seed=seed,
        figures=rows[study.policy],
        references={name: rows[name] for name in study.references},
        terms=_terms(summary),
        wall_s=float(summary.get("wall_s", 0.0)),
        is_success=_episodes(run / study.stages[-1].name / "episodes", study.policy),
        markers={stage.name: read_marker(run, stage.name, DONE) for stage in study.stages},
    )


def _row_of(name: str, summaries: Sequence[Mapping[str, Any]], file: Path) -> Mapping[str, Any]:
    for summary in summaries:
        if name in (policies := summary.get("policies", {})):
            own = _terms(summary)
            for term, value in _terms(summaries[0]).items():
                # What is held out may be left out for a reference.
                if own[term] not in {"", value}:
                    raise UserError(
                        f"{file}: policy {name} must have the {term} of the others, {value}, "
                        f"got {own[term]}"
                    )
            return {**policies[name], **_held_out(name, summary)}
    known = ", ".join(key for summary in summaries for key in summary.get("policies", {}))
    raise UserError(f"{file}: no policy {name!r} in it, only {known}")


def _held_out(name: str, summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Success rates with other people and under the second judge, and how the judges agree.

    Nothing where nothing was held out: the usual people under the first judge are the result.
    """
    rates: dict[str, float | None] = {}
    for people, policies in ((summary.get("held_out") or {}).get("people") or {}).items():
        entry = policies.get(name, {})
        if people != MAIN and "first_judge" in entry:
            rates[f"{HELD_OUT}{people}"] = entry["first_judge"]["success_rate"]
        if "second_judge" in entry:
            rates[f"{HELD_OUT}{people}, second judge"] = entry["second_judge"]["success_rate"]
            rates |= {
                f"{AGREEMENT}{people}/{key}": entry.get("agreement", {}).get(key) for key in AGREED
            }
    return rates


def _terms(summary: Mapping[str, Any]) -> dict[str, str]:
    judge, second = summary.get("judge", {}), (summary.get("held_out") or {}).get("judge")
    protocol = {key: value for key, value in summary.get("protocol", {}).items() if key != "seed"}
    return {
        "judge": f"{judge.get('name')} #{judge.get('hash')}, {judge.get('max_turns')} turns",
        "second judge": f"{second.get('name')} #{second.get('hash')}" if second else "",
        "protocol": ", ".join(f"{key} {protocol[key]}" for key in sorted(protocol)),
    }


def _episodes(folder: Path, policy: str) -> dict[str, bool]:
    found: dict[str, bool] = {}
    # A policy that is named as a model of a hub is in a folder of its own.
    path = folder / policy
    for file in sorted(path.parent.glob("*.jsonl")):
        name, _, rank = file.stem.rpartition("-")
        # Not by a pattern: `rlff-7b-0.jsonl` belongs to another policy than `rlff`.
        if name != path.name or not rank.isdecimal():
            continue
        for row in read_lines(file):
            found[row["id"]] = bool(row["is_success"])
    return found
