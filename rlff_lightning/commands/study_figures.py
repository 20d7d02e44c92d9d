"""Figures of a study: means over seeds with intervals, and paired tests against the baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from rlff_lightning.commands.study_cell import AGREEMENT, HELD_OUT, Cell
from rlff_lightning.commands.study_file import Study
from rlff_lightning.commands.study_mixed import check_terms
from rlff_lightning.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """An arm, or a reference, over its seeds."""

    name: str
    rates: tuple[float, ...]
    """Success rate of each seed."""
    rate: float
    """Mean over seeds."""
    rate_interval: tuple[float, float] | None
    """95 %, Student's t over seeds; None for seeds that do not differ, as for a single one."""
    turns: float
    """Average turns, mean over seeds."""
    turns_interval: tuple[float, float] | None = None
    """The same of them."""
    held_out: Mapping[str, float] = field(default_factory=dict)
    """Success rates with held-out people and under the second judge, means over seeds."""
    held_out_intervals: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    """95 %, Student's t over seeds."""
    agreement: Mapping[str, float] = field(default_factory=dict)
    """`<people>/difference` of the judges' success rates and their kappas, means over seeds."""
    agreement_intervals: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    """95 %, Student's t over seeds."""
    difference: float | None = None
    """Mean over seeds of the success rate less the baseline's under the same seed."""
    difference_interval: tuple[float, float] | None = None
    """95 %, paired Student's t over seeds."""
    p_seeds: float | None = None
    """Paired t test over seeds: would new seeds differ as well?"""
    p_episodes: float | None = None
    """Exact McNemar test over episodes with the same person and seed: do these very policies
    differ? It knows nothing of the spread over training seeds."""
    p_holm: float | None = None
    """`p_seeds`, corrected for the number of arms that have two seeds, whether they vary or not."""


def rows_of(study: Study, cells: Sequence[Cell]) -> list[Row]:
    """Put the cells together: references, then arms in the study's order.

    Raises:
        UserError: If the cells were measured differently.
    """
    check_terms(cells)
    by_arm = {
        arm.name: {cell.seed: cell for cell in cells if cell.arm == arm.name} for arm in study.arms
    }
    baseline = by_arm[study.baseline]
    rows = []
    for name in study.references:
        first = {cell.seed: cell.references[name] for cell in reversed(cells)}
        rows.append(_row(name, [first[seed] for seed in sorted(first)]))
    arms = []
    for name, own in by_arm.items():
        if own:
            row = _row(name, [own[seed].figures for seed in sorted(own)])
            arms.append(row if name == study.baseline else _compared(row, own, baseline))
    num_tests = sum(
        len(own.keys() & baseline.keys()) > 1
        for name, own in by_arm.items()
        if name != study.baseline
    )
    return rows + _corrected(arms, num_tests)


def _row(name: str, figures: Sequence[Mapping[str, Any]]) -> Row:
    rates = tuple(float(row["success_rate"]) for row in figures)
    turns = [float(row["average_turns"]) for row in figures]
    held_out, agreement = (_by_key(figures, prefix) for prefix in (HELD_OUT, AGREEMENT))
    return Row(
        name=name,
        rates=rates,
        rate=fmean(rates),
        rate_interval=_interval(rates),
        turns=fmean(turns),
        turns_interval=_interval(turns),
        held_out={key: fmean(values) for key, values in held_out.items()},
        held_out_intervals={key: _interval(values) for key, values in held_out.items()},
        agreement={key: fmean(values) for key, values in agreement.items()},
        agreement_intervals={key: _interval(values) for key, values in agreement.items()},
    )


def _by_key(figures: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, list[float]]:
    keys = dict.fromkeys(key for row in figures for key in row if key.startswith(prefix))
    # A mean over some of the seeds would not be the other columns' mean.
    whole = [key for key in keys if all(row.get(key) is not None for row in figures)]
    return {key.removeprefix(prefix): [float(row[key]) for row in figures] for key in whole}


def _compared(row: Row, own: Mapping[int, Cell], baseline: Mapping[int, Cell]) -> Row:
    from scipy.stats import ttest_1samp

    seeds = sorted(own.keys() & baseline.keys())
    if not seeds:
        return row
    ours = [float(own[seed].figures["success_rate"]) for seed in seeds]
    theirs = [float(baseline[seed].figures["success_rate"]) for seed in seeds]
    differences = _without_rounding([a - b for a, b in zip(ours, theirs, strict=True)])
    is_varied = len(set(differences)) > 1
    return replace(
        row,
        difference=fmean(differences),
        difference_interval=_interval(differences),
        p_seeds=float(ttest_1samp(differences, 0).pvalue) if is_varied else None,
        p_episodes=_p_episodes(row.name, [(own[seed], baseline[seed]) for seed in seeds]),
    )


def _p_episodes(name: str, pairs: Sequence[tuple[Cell, Cell]]) -> float | None:
    """McNemar's exact test; none where no episodes lie side by side."""
    from scipy.stats import binomtest

    paired: list[tuple[bool, bool]] = []
    for one, other in pairs:
        common = one.is_success.keys() & other.is_success.keys()
        if (
            one.is_success
            and other.is_success
            and len(common) < max(len(one.is_success), len(other.is_success))
        ):
            raise UserError(
                f"arm {name} must have met the same people as {other.arm} under seed {one.seed}, "
                f"got {len(common)} in common of {len(one.is_success)} and {len(other.is_success)}"
            )
        paired += [(one.is_success[key], other.is_success[key]) for key in common]
    if not paired:
        return None
    only_one = sum(solved and not other for solved, other in paired)
    discordant = sum(solved != other for solved, other in paired)
    return float(binomtest(only_one, discordant).pvalue) if discordant else 1.0


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    from rlff_lightning.functional.intervals import mean_interval

    # Student's t would call the mean of equal values exact.
    if len(set(_without_rounding(values))) < 2:
        return None
    low, high = mean_interval(values)
    return low, high


def _without_rounding(values: Sequence[float]) -> list[float]:
    # Shares of at most some thousand episodes: what is smaller would pass for spread.
    return [round(value, 9) for value in values]


def _corrected(rows: Sequence[Row], num_tests: int) -> list[Row]:
    """Correct for several comparisons.

    Source: Holm 1979, Scandinavian Journal of Statistics 6(2).
    """
    tested = sorted((row for row in rows if row.p_seeds is not None), key=lambda r: r.p_seeds or 0)
    corrected: dict[str, float] = {}
    highest = 0.0
    for place, row in enumerate(tested):
        assert row.p_seeds is not None
        highest = max(highest, min(1.0, row.p_seeds * (num_tests - place)))
        corrected[row.name] = highest
    return [replace(row, p_holm=corrected.get(row.name)) for row in rows]
