"""What other people and the second judge make of a study's arms, as rows of tables."""

from collections.abc import Callable, Sequence

from rlff_lightning.commands.study_cell import AGREED
from rlff_lightning.commands.study_figures import Row

RATES = "Success rates held out, means over seeds (95 %)"
AGREEMENT = "Agreement of the two judges, means over seeds (95 %)"
AGREED_TITLES = ("first less second", "kappa", "kappa of turns")
"""Columns, in the order of ``AGREED``."""

Word = Callable[[float | None, tuple[float, float] | None], str]
"""Words a mean and its interval."""


def held_out_names(rows: Sequence[Row]) -> list[str]:
    """Name the columns: other people, and whoever the second judge heard."""
    return list(dict.fromkeys(name for row in rows for name in row.held_out))


def held_out_rates(row: Row, names: Sequence[str], word: Word) -> list[str]:
    """Word an arm's rates; empty where it has none."""
    return [word(row.held_out.get(name), row.held_out_intervals.get(name)) for name in names]


def agreements(rows: Sequence[Row], word: Word) -> list[tuple[str, str, list[str]]]:
    """Give arm, people and the figures of ``AGREED``; a kappa undefined in a seed is empty."""
    found = []
    for row in rows:
        for people in dict.fromkeys(key.rpartition("/")[0] for key in row.agreement):
            cells = [
                word(
                    row.agreement.get(f"{people}/{name}"),
                    row.agreement_intervals.get(f"{people}/{name}"),
                )
                for name in AGREED
            ]
            found.append((row.name, people, cells))
    return found
