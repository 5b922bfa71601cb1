"""A run's metrics as a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from hessdiag.reports.figures import blank

_ACCURACIES = {
    "train_accuracy": "train",
    "validation_accuracy": "validation",
    "test_accuracy": "test",
}
_COLOURS = ("#999999", "#0072b2", "#d55e00")


def curves_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw loss and accuracies over the epochs; ``rows`` are those of ``metrics.jsonl``."""
    figure = blank(8, 3.4)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    epochs = [row["number"] for row in rows]
    loss_axes.plot(
        epochs, [_number(row["train_loss"]) for row in rows], "o-", color=_COLOURS[0], ms=3
    )
    loss_axes.set_yscale("log")
    loss_axes.set_ylabel("training loss")
    for (name, label), colour in zip(_ACCURACIES.items(), _COLOURS, strict=True):
        if any(row[name] is not None for row in rows):
            values = [100 * _number(row[name]) for row in rows]
            accuracy_axes.plot(epochs, values, "o-", color=colour, ms=3, label=label)
    accuracy_axes.set_ylabel("accuracy, %")
    if accuracy_axes.lines:
        accuracy_axes.legend(frameon=False)
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
    return figure


def _number(value: float | None) -> float:
    return math.nan if value is None else value
