"""A run's metrics as a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hessdiag.reports.figures import COLOURS, blank
from hessdiag.training.history import Epoch

_ACCURACIES = {
    "train_accuracy": ("train", "#999999"),
    "validation_accuracy": ("validation", "#0072b2"),
    "test_accuracy": ("test", "#d55e00"),
}
_SPARE_COLOURS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_LOG_SPAN = 30.0  # ratio of extremes from which a logarithmic axis reads better


def curves_figure(epochs: Sequence[Epoch]) -> Figure:
    """Draw loss, accuracies and what was tracked over the epochs; bars are standard errors.

    Metrics of one quantity, such as the traces, share a panel.
    """
    tracked = _panels(epochs)
    rows = 1 + -(-len(tracked) // 2)
    figure = blank(8, 3.2 * rows)
    panels = figure.subplots(rows, 2, squeeze=False).flatten()
    _draw_loss(panels[0], epochs)
    _draw_accuracies(panels[1], epochs)
    for axes, (quantity, names) in zip(panels[2:], tracked.items(), strict=False):
        _draw_tracked(axes, quantity, names, epochs)
    for axes in panels[: 2 + len(tracked)]:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    for axes in panels[2 + len(tracked) :]:
        axes.set_axis_off()
    return figure


def _panels(epochs: Sequence[Epoch]) -> dict[str, list[str]]:
    """Group the metrics by what comes after the part's name."""
    panels: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for epoch in epochs for name in epoch.curvature):
        part, _, quantity = name.partition(".")
        title = f"{part} {quantity}" if part == "sparsity" else quantity
        panels.setdefault(title.replace("_", " "), []).append(name)
    return panels


def _draw_loss(axes: Axes, epochs: Sequence[Epoch]) -> None:
    numbers = [epoch.number for epoch in epochs]
    axes.plot(numbers, [epoch.train_loss for epoch in epochs], "o-", color="#999999", ms=3)
    axes.set_yscale("log")
    axes.set_ylabel("training loss")


def _draw_accuracies(axes: Axes, epochs: Sequence[Epoch]) -> None:
    numbers = [epoch.number for epoch in epochs]
    for field, (label, colour) in _ACCURACIES.items():
        values = [getattr(epoch, field) for epoch in epochs]
        if any(value is not None for value in values):
            shown = [math.nan if value is None else 100 * value for value in values]
            axes.plot(numbers, shown, "o-", color=colour, ms=3, label=label)
    axes.set_ylabel("accuracy, %")
    if axes.lines:
        axes.legend(frameon=False)


def _draw_tracked(axes: Axes, quantity: str, names: Sequence[str], epochs: Sequence[Epoch]) -> None:
    extremes: list[float] = []
    for name, spare in zip(names, _SPARE_COLOURS * len(names), strict=False):
        seen = [
            (epoch.number, epoch.curvature[name]) for epoch in epochs if name in epoch.curvature
        ]
        numbers, readings = zip(*seen, strict=True)
        values = [reading.value for reading in readings]
        errors = [reading.error or 0.0 for reading in readings]
        label = name.partition(".")[0]
        colour = COLOURS.get(label, spare)
        axes.errorbar(numbers, values, errors, fmt="o-", color=colour, ms=3, label=label, capsize=2)
        extremes += values
    if min(extremes) > 0 and max(extremes) > _LOG_SPAN * min(extremes):
        axes.set_yscale("log")
    axes.set_ylabel(quantity)
    if len(names) > 1:
        axes.legend(frameon=False)
