"""The charts of a document as a matplotlib figure, for files."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from hessdiag.errors import InputError, printable
from hessdiag.files import replacing
from hessdiag.show.document import Chart, Curve, Document, Map, Marks, drawing
from hessdiag.show.plotting import map_pictures
from hessdiag.show.scales import Scale, scales

COLOURS = {
    **{"hessian": "#333333", "gn": "#0072b2", "nme": "#d55e00"},  # safe for colour-blind eyes
    **{"a": "#555555", "b": "#0072b2", "c": "#d55e00", "d": "#009e73", "e": "#cc79a7"},
    **{"f": "#8a6100", "initial": "#999999", "trained": "#0072b2"},
}
SUFFIXES = (".png", ".svg", ".pdf")


def check_path(path: str | os.PathLike[str]) -> None:
    """Refuse a plot whose suffix matplotlib would not know.

    Raises:
        InputError: the suffix is not one of SUFFIXES.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(
            "unknown kind of plot", got=Path(path).name, wanted=f"a name in {', '.join(SUFFIXES)}"
        )


def save(document: Document, path: str | os.PathLike[str]) -> None:
    """Write the charts of a document to ``path`` in one step; its suffix chooses the format."""
    check_path(path)
    drawn = figure(document)
    with replacing(path) as temporary:
        drawn.savefig(temporary, dpi=160, format=Path(path).suffix[1:].lower())


def figure(document: Document) -> Figure:
    """Draw the charts of a document, in panels.

    Raises:
        InputError: it has none.
    """
    charts = document.pictures()
    if not charts:
        raise InputError(
            "there is nothing to plot", got=f"a {document.kind.lower()} report without charts"
        )
    with drawing("the report"):
        return _figure(document, charts)


def _figure(document: Document, charts: Sequence[Chart | Map]) -> Figure:
    wide = any(isinstance(chart, Chart) and chart.wide for chart in charts)
    columns = 1 if wide else min(len(charts), 3)
    asked = [block.columns for block in document.on("figure") if block.columns]
    columns = asked[0] if asked else columns
    rows = math.ceil(len(charts) / columns)
    size = (8.0, (4.8 if rows == 1 else 1 + 2.4 * rows)) if wide else (4.5 * columns, 3.8 * rows)
    drawn = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(drawn)
    grid = drawn.add_gridspec(rows, columns)
    for place, chart in enumerate(charts):
        _panel(drawn, grid[place // columns, place % columns], chart, titled=len(charts) > 1)
    drawn.suptitle(printable(document.title), fontsize=11, parse_math=False)
    return drawn


def _panel(drawn: Figure, place: Any, chart: Chart | Map, *, titled: bool) -> None:
    if isinstance(chart, Map):
        axes = drawn.add_subplot(place)
        map_pictures.panel(drawn, axes, chart)
        axes.set_title(printable(chart.title), fontsize=10, parse_math=False)
        return
    x, y = scales(chart)
    below = len(chart.marks)
    heights = (8, 1 + 0.5 * below) if below else (1,)
    parts = place.subgridspec(len(heights), 1, height_ratios=heights)
    axes = drawn.add_subplot(parts[0])
    for curve in chart.curves:
        _curve(axes, curve)
    _set(axes, x, y)
    if titled:
        axes.set_title(printable(chart.title), fontsize=10, parse_math=False)
    axes.set_ylabel(printable(y.label), parse_math=False)
    axes.grid(alpha=0.25)
    if len(chart.curves) > 1:
        for text in axes.legend(frameon=False).get_texts():
            text.set_parse_math(False)
    label = printable(x.label)
    if below:
        axes.tick_params(labelbottom=False)
        axes = drawn.add_subplot(parts[1], sharex=axes)
        _marks(axes, chart.marks)
    axes.set_xlabel(label, parse_math=False)


def _curve(axes: Any, curve: Curve) -> None:
    colour, *more = curve.style.split()
    line = {"color": COLOURS[colour], "label": printable(curve.label), "lw": 1.6}
    line |= {"ls": "--"} if "dashed" in more else {}
    line |= {"marker": "o", "ms": 4} if curve.dots else {}
    y = np.asarray(curve.y, float)
    if "filled" in more:
        axes.fill_between(curve.x, y, color=COLOURS[colour], alpha=0.15, lw=0)
    if curve.errors is None:
        axes.plot(curve.x, y, **line)
    else:
        axes.errorbar(curve.x, y, yerr=curve.errors, elinewidth=1.1, capsize=2.5, **line)


def _set(axes: Any, x: Scale, y: Scale) -> None:
    for scale, name in ((x, "x"), (y, "y")):
        options = {"linthresh": scale.threshold, "linscale": 0.7} if scale.kind == "symlog" else {}
        getattr(axes, f"set_{name}scale")(scale.kind, **options)
        getattr(axes, f"set_{name}lim")(scale.low, scale.high)
        if scale.kind == "symlog":
            locator = SymmetricalLogLocator(base=10, linthresh=10 * scale.threshold)
            getattr(axes, f"{name}axis").set_major_locator(locator)


def _marks(axes: Any, rows: tuple[Marks, ...] | Any) -> None:
    for place, marks in enumerate(rows):
        for value, sure in marks.values:
            colour = COLOURS[marks.style.split()[0]]
            axes.plot(value, -place, "|" if sure else "x", color=colour, ms=9, clip_on=False)
    axes.set_yticks(
        [-place for place in range(len(rows))],
        [printable(row.label) for row in rows],
        parse_math=False,
    )
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    axes.grid(axis="x", alpha=0.25)
