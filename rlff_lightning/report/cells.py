"""A table as rows of cells that a template lays out, and how figures are worded in them."""

from collections.abc import Sequence
from dataclasses import dataclass


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


def rate(value: float | None, interval: Sequence[float | None] | None) -> list[Cell]:
    """Show a share with its interval in a cell of its own; two cells, ``-`` for none."""
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


def share(value: float | None) -> Cell:
    """Show a share in percent; ``-`` for none."""
    return Cell(text="-" if value is None else _percent(value))


def number(value: float | None, digits: int) -> Cell:
    """Show a figure with so many decimals; ``-`` for none."""
    return Cell(text="-" if value is None else f"{value:.{digits}f}".replace("-", "\u2212"))


def between(interval: Sequence[float | None] | None, digits: int) -> Cell:
    """Show both ends of an interval with so many decimals; an empty cell for none."""
    ends = [end for end in interval or () if end is not None]
    if len(ends) < 2:
        return Cell(text="")
    return Cell(text=" to ".join(f"{end:.{digits}f}" for end in ends).replace("-", "\u2212"))


def probability(value: float | None) -> Cell:
    """Show a p value; an empty cell for none."""
    if value is None:
        return Cell(text="")
    return Cell(text="< .001" if value < 0.001 else f"{value:.3f}")


def interval_text(value: float | None, interval: Sequence[float | None] | None) -> str:
    """Word a figure with its sign, and its interval where there is one."""
    if value is None:
        return ""
    low, high = interval or (None, None)
    ends = "" if low is None or high is None else f" ({low:+.3f} to {high:+.3f})"
    return f"{value:+.3f}{ends}".replace("-", "\u2212")


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
