"""The report of a sweep as a plot: accuracy over each strength that varies, or over β."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hessdiag.errors import printable
from hessdiag.reports.figures import blank
from hessdiag.reports.sweep import SYMBOLS
from hessdiag.reports.sweep.panels import Panel, arrange, choices
from hessdiag.reports.sweep.text import headline
from hessdiag.training.trials import Cell, Spread, Sweep

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's
_MARKERS = "osD^v"  # as many as have no common divisor with the colours
_DASHES = ("--", ":", "-.", (0, (1, 4)))
_GREY = "#444444"
_ASIDE = 0.012  # between curves, as a share of the width: one bar must not hide another
_BELOW: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "ncols": 2}
_DECADE = 10.0
_MOST_TICKS = 9


def sweep_figure(found: Sweep) -> Figure:
    """Draw accuracy over each choice that varies, one curve for each way to make the others.

    Cells with nothing that varies are horizontal lines; where nothing varies at all, points.
    """
    panels, constant = arrange(found.cells)
    if panels:
        figure = blank(max(4.2 * len(panels), 6.4), 4.8)
        row: Any = figure.subplots(1, len(panels), sharey=True, squeeze=False)
        numbers = itertools.count()  # a style for each curve of all panels
        for axes, panel in zip(row[0], panels, strict=True):
            _lines(axes, constant)
            _curves(axes, panel, numbers)
            axes.legend(**_BELOW, frameon=False, fontsize=9)
        row[0, 0].set_ylabel("accuracy, %")
    else:
        figure = blank(6.4, 0.45 * len(constant) + 1.4)
        _points(figure.subplots(), constant)
    num_seeds = len(found.cells[0].trials)
    over = f", mean ± std of {num_seeds} seeds" if num_seeds > 1 else ""
    figure.suptitle(printable(headline(found) + over), fontsize=11, parse_math=False)
    return figure


def _curves(axes: Axes, panel: Panel, numbers: Iterator[int]) -> None:
    """Draw the curves with error bars; where all runs failed, a cross on the floor."""
    places = _places(axes, panel.values)
    width = max(places.values()) - min(places.values())
    for position, (label, cells) in enumerate(panel.curves.items()):
        number = next(numbers)
        colour = _COLOURS[number % len(_COLOURS)]
        aside = (position - (len(panel.curves) - 1) / 2) * _ASIDE * width
        at = {cell.name: places[choices(cell)[panel.axis]] + aside for cell in cells}
        known = [(at[cell.name], *_percent(s)) for cell in cells if (s := cell.accuracy)]
        x, means, stds = zip(*known, strict=True) if known else ((), (), ())
        axes.errorbar(
            x,
            means,
            yerr=stds,
            label=label,
            color=colour,
            marker=_MARKERS[number % len(_MARKERS)],
            ms=5,
            lw=1.6,
            elinewidth=1.1,
            capsize=2.5,
        )
        failed = [at[cell.name] for cell in cells if _has_failed(cell)]
        floor = axes.get_xaxis_transform()
        axes.plot(failed, [0.03] * len(failed), "x", color=colour, transform=floor)
    axes.set_xlabel(SYMBOLS[panel.axis])
    axes.grid(alpha=0.25)


def _places(axes: Axes, values: Sequence[float]) -> dict[float, float]:
    """Place values on the axis and mark them; by their logarithms if they span a decade.

    A zero stands half a decade below the others then, across a break in the axis.
    """
    above = [value for value in values if value > 0]
    places = {value: value for value in values}
    if above[-1] >= _DECADE * above[0]:
        places = {value: math.log10(value) for value in above}
        if above != values:
            edge = places[above[0]]
            places = {values[0]: edge - 0.5, **places}
            axes.text(
                *(edge - 0.25, 0, "//"),
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="center",
                bbox={"color": "white", "pad": 0},
            )
    shown = values[:: math.ceil(len(values) / _MOST_TICKS)]
    axes.set_xticks([places[value] for value in shown], [f"{value:g}" for value in shown])
    return places


def _lines(axes: Axes, constant: Mapping[str, Cell]) -> None:
    for number, (label, cell) in enumerate(constant.items()):
        if spread := cell.accuracy:
            mean, std = _percent(spread)
            axes.axhline(mean, ls=_DASHES[number % len(_DASHES)], color=_GREY, lw=1.3, label=label)
            axes.axhspan(mean - std, mean + std, color=_GREY, alpha=0.1, lw=0)


def _points(axes: Axes, constant: Mapping[str, Cell]) -> None:
    """Draw each cell's mean with its error bar, and its seeds faintly."""
    for number, cell in enumerate(constant.values()):
        colour = _COLOURS[number % len(_COLOURS)]
        seeds = [100 * t.accuracy for t in cell.trials if t.accuracy is not None]
        axes.plot(seeds, [number] * len(seeds), "o", color=colour, alpha=0.3, ms=5, mew=0)
        if spread := cell.accuracy:
            mean, std = _percent(spread)
            axes.errorbar(mean, number, xerr=std, fmt="D", color=colour, ms=6, capsize=3)
    axes.set_yticks(range(len(constant)), list(constant))
    axes.set_ylim(len(constant) - 0.5, -0.5)
    axes.set_xlabel("accuracy, %")
    axes.grid(axis="x", alpha=0.25)


def _percent(spread: Spread) -> tuple[float, float]:
    return 100 * spread.mean, 100 * (spread.std or 0.0)


def _has_failed(cell: Cell) -> bool:
    return cell.accuracy is None and any(trial.failure is not None for trial in cell.trials)
