"""The section of a run: its curves, its best epoch, the curvature tracked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hessdiag.reports import TITLES
from hessdiag.reports.html import charts
from hessdiag.reports.html.charts import Axis, Curve
from hessdiag.reports.html.section import Section, subject
from hessdiag.reports.sweep import SYMBOLS
from hessdiag.show.markup import Markup, block, count, estimate, number, percent, table
from hessdiag.training import methods

_ACCURACIES = {
    "train_accuracy": ("train", "a"),
    "validation_accuracy": ("validation", "b"),
    "test_accuracy": ("test", "c"),
}


def training(payload: dict[str, Any]) -> Section:
    """Lay out ``hessdiag.train/1``."""
    epochs = payload["epochs"]
    blocks = []
    if epochs:
        blocks.append(block("Curves", charts.grid(_curves(epochs))))
        blocks.append(block("Epochs", _epochs(payload)))
    if (bound := payload.get("pac_bayes")) is not None:
        blocks.append(block("PAC-Bayes bound", _bound(bound)))
    return Section("Training", subject(payload), list(_facts(payload)), blocks)


def _facts(payload: dict[str, Any]) -> Iterator[tuple[str, object]]:
    yield "method", _method(payload["regulariser"])
    epochs = payload["epochs"]
    yield "epochs", f"{len(epochs)} of {payload['recipe']['epochs']}"
    if not epochs:
        return
    last = epochs[-1]
    yield "training loss", number(last["train_loss"])
    for field, (label, _) in _ACCURACIES.items():
        if last[field] is not None:
            yield f"{label} accuracy", percent(last[field])
    for name, reading in last["curvature"].items():
        yield name, number(reading["value"], reading["error"] or None)
    yield "parameters", count(payload["checkpoint"]["num_parameters"])


def _method(regulariser: dict[str, Any]) -> str:
    """Name a method with those strengths that it takes."""
    name, strengths = regulariser["name"], regulariser["strengths"]
    known = methods.METHODS.get(name)
    taken = [key for key in (known.options() if known else strengths) if key in strengths]
    told = (f"{SYMBOLS.get(key, key)} = {strengths[key]}" for key in taken if strengths[key])
    return ", ".join((name, *told))


def _curves(epochs: Sequence[Any]) -> Iterator[Markup]:
    numbers = charts.values(epoch["number"] for epoch in epochs)
    x = charts.linear("epoch", numbers, whole=True)
    loss = charts.values(epoch["train_loss"] for epoch in epochs)
    y = charts.suitable("training loss", loss)
    yield charts.chart(x, y, [Curve("train", "a", numbers, loss, dots=True)])
    accuracies = [
        Curve(label, style, numbers, 100 * found, dots=True)
        for field, (label, style) in _ACCURACIES.items()
        if np.isfinite(found := charts.values(epoch[field] for epoch in epochs)).any()
    ]
    if accuracies:
        y = charts.linear("accuracy, %", *(curve.y for curve in accuracies))
        yield charts.chart(x, y, accuracies)
    names = dict.fromkeys(name for epoch in epochs for name in epoch["curvature"])
    for quantity in dict.fromkeys(map(_quantity, names)):
        yield _tracked(epochs, x, [name for name in names if _quantity(name) == quantity], quantity)


def _quantity(name: str) -> str:
    """Tell what is measured from whose it is, for the parts of the Hessian."""
    return re.sub(rf"^({'|'.join(TITLES)})\.", "", name)


def _tracked(epochs: Sequence[Any], x: Axis, names: Sequence[str], quantity: str) -> Markup:
    """Draw one quantity of several parts, with error bars where it was measured."""
    curves: list[Curve] = []
    for name, spare in zip(names, charts.STYLES * len(names), strict=False):
        seen = [epoch for epoch in epochs if name in epoch["curvature"]]
        readings = [epoch["curvature"][name] for epoch in seen]
        part = name.partition(".")[0]
        curves.append(
            Curve(
                TITLES.get(part, name),
                part if part in TITLES else spare,
                charts.values(epoch["number"] for epoch in seen),
                charts.values(reading["value"] for reading in readings),
                charts.values(reading["error"] or 0.0 for reading in readings),
                dots=True,
            )
        )
    label = quantity.replace("_", " ")
    y = charts.suitable(label, *(curve.y for curve in curves))
    return charts.chart(x, y, curves)


def _epochs(payload: dict[str, Any]) -> Markup:
    epochs, best = payload["epochs"], payload["best_epoch"]
    shown = [field for field in _ACCURACIES if any(epoch[field] is not None for epoch in epochs)]
    tracked = list(dict.fromkeys(name for epoch in epochs for name in epoch["curvature"]))
    header = ["epoch", "loss", *(f"{_ACCURACIES[field][0]} accuracy" for field in shown), *tracked]
    rows = [
        [
            f"{epoch['number']}{', best' if epoch['number'] == best else ''}",
            number(epoch["train_loss"]),
            *(percent(epoch[field]) for field in shown),
            *(estimate(epoch["curvature"].get(name), "error") for name in tracked),
        ]
        for epoch in epochs
    ]
    return table("Epoch by epoch", header, rows)


def _bound(bound: dict[str, Any]) -> Markup:
    rows = [
        [name.replace("_", " "), estimate(value) if isinstance(value, dict) else number(value)]
        for name, value in bound.items()
    ]
    return table("Leading terms of the PAC-Bayes bound, of a sample: no bound", ["", "value"], rows)
