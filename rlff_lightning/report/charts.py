"""Charts as SVG whose colours are the page's own, so that they follow its light and dark theme."""

import io
import math
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

NUM_COLOURS = 6
"""Colours of categories that the page's style sheet defines, ``--c0`` to ``--c5``."""

# The SVG is written with these stand-ins, which no chart uses otherwise.
_INK, _SOFT, _RULE = "#00a0a0", "#00a1a1", "#00a2a2"
_CATEGORIES = [f"#00c0c{number}" for number in range(NUM_COLOURS)]
_VARIABLES = {_INK: "--ink", _SOFT: "--soft", _RULE: "--rule"} | {
    colour: f"--c{number}" for number, colour in enumerate(_CATEGORIES)
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 9.5,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    "text.color": _INK,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.labelcolor": _INK,
    "legend.labelspacing": 0.3,
}
_LONGEST_OF_TWO = 22
"""Letters of names that stand two by two in a legend."""


def colour(number: int) -> str:
    """Give the stand-in for a category's colour; they repeat after the last."""
    return _CATEGORIES[number % NUM_COLOURS]


def dashes(number: int) -> str:
    """Give a category's line style: another one each time that the colours repeat."""
    return ("-", "--", ":", "-.")[number // NUM_COLOURS % 4]


def soft() -> str:
    """Give the stand-in for the colour of what is in the background."""
    return _SOFT


def draw(
    name: str,
    description: str,
    paint: Callable[[Axes], None],
    size: tuple[float, float] = (4.2, 2.7),
) -> Markup:
    """Draw one chart.

    Args:
        name: Unique on the page; letters, digits and hyphens.
        description: What it shows, for those who do not see it.
        paint: Draws on the axes.
        size: Width and height in inches.

    Returns:
        An ``<svg>`` that scales to the width it is given.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.subplots()
        axes.patch.set_visible(False)
        paint(axes)
        _name_lines(figure, axes)
        stream = io.StringIO()
        keep_no_metadata: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=keep_no_metadata)
    return Markup(_inline(stream.getvalue(), name, description))


def _name_lines(figure: Figure, axes: Axes) -> None:
    """Name what is drawn: inside where there is room, and else below, on height of its own."""
    lines, names = axes.get_legend_handles_labels()
    if len(names) <= NUM_COLOURS:
        if names:
            axes.legend(loc="best")
        return
    columns = 2 if max(map(len, names)) <= _LONGEST_OF_TWO else 1
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.19 * math.ceil(len(names) / columns) + 0.1)
    figure.legend(lines, names, loc="outside lower center", ncols=columns)


def _inline(svg: str, name: str, description: str) -> str:
    """Make a file into a part of a page: unique ids, page colours, no fixed size."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r'\b(id="|xlink:href="#|href="#|url\(#)', rf"\g<1>{name}-", body)
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, f"var({variable})")
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    label = str(Markup.escape(description))
    return body.replace("<svg", f'<svg class="chart" role="img" aria-label="{label}"', 1)
