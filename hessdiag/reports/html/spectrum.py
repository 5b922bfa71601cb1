"""The section of a spectrum: parts side by side, densities, layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hessdiag.linalg.density import Density
from hessdiag.reports import TITLES
from hessdiag.reports.html import charts
from hessdiag.reports.html.charts import Array, Axis, Curve, Frame
from hessdiag.show.markup import (
    Markup,
    join,
    tag,
)
from hessdiag.spectra.densities import SymlogAxis

_SYMBOLS = {name: title[-1] for name, title in TITLES.items()}
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_WIDTH, _HEIGHT, _ROW = 560, 290, 18
_DECADES = 8  # of the densities shown
_MOST_NODES = 20_000  # of a density: a smooth curve needs no more, and memory grows with them


def nth(end: str, place: int) -> str:
    """Name an eigenvalue by its place from an end of the spectrum, 0 for the first."""
    digits = str(place if end == "bottom" else place + 1).translate(_SUBSCRIPTS)
    return f"λₙ₋{digits}" if end == "bottom" else f"λ{digits}"


def density_chart(
    title: str,
    named: Sequence[tuple[str, str, dict[str, Any]]],
    eigenvalues: dict[str, list[dict[str, Any]]],
) -> Markup:
    """Draw densities on one symmetric-log axis, extreme eigenvalues of parts marked below.

    Args:
        title: of the chart.
        named: label, style and fields of each density.
        eigenvalues: by part.
    """
    shown = [(label, style, _density(fields)) for label, style, fields in named]
    symlog = SymlogAxis((density for _, _, density in shown), 400)
    found = [(label, style, symlog.density(density)) for label, style, density in shown]
    peak = max(float(curve.max()) for _, _, curve in found)
    ends = float(symlog.grid[0]), float(symlog.grid[-1])
    x = Axis("eigenvalue λ", symlog.to_axis, *ends, _ticks(symlog))
    y = charts.logarithmic("density per unit of λ", peak * 10.0**-_DECADES, peak)
    frame = Frame(x, y, _WIDTH, _HEIGHT)
    return charts.chart(
        x,
        y,
        [Curve(label, style, symlog.grid, _above(curve, y.low)) for label, style, curve in found],
        title=title,
        width=_WIDTH,
        height=_HEIGHT,
        below=join(
            _marks(frame, name, values, row)
            for row, (name, values) in enumerate(eigenvalues.items())
        ),
        extra=_ROW * len(eigenvalues) + 6,
    )


def _above(curve: Array, floor: float) -> Array:
    """Leave out what lies below the floor, but for the points where the curve meets it."""
    seen = np.concatenate([[False], curve > floor, [False]])
    near = seen[:-2] | seen[1:-1] | seen[2:]
    return np.where(near, np.maximum(curve, floor), np.nan)


def _density(fields: dict[str, Any]) -> Density:
    """Take back what the schema laid out; only nodes and weights are drawn, many put together."""
    nodes, weights = np.array(fields["nodes"], float), np.array(fields["weights"], float)
    if nodes.shape != weights.shape or nodes.ndim != 1 or not len(nodes):
        raise ValueError("nodes and weights of a density do not match")
    order = np.argsort(nodes)
    kept = np.arange(0, len(nodes), -(-len(nodes) // _MOST_NODES))
    nodes, weights = nodes[order][kept], np.add.reduceat(weights[order], kept)
    empty = np.empty(0)
    return Density(empty, empty, None, fields["bandwidth"], nodes, weights, fields["num_probes"])


def _ticks(axis: SymlogAxis) -> dict[float, str]:
    """Mark zero and three decades on each side, as far as they are in sight."""
    low, high = axis.grid[0], axis.grid[-1]
    last = int(np.floor(np.log10(max(-low, high))))
    powers = range(last - 2, last + 1)
    ticks = {0.0: "0", **{10.0**power: charts.decade(power) for power in powers}}
    ticks |= {-(10.0**power): f"−{charts.decade(power)}" for power in powers}
    return {value: label for value, label in ticks.items() if low <= value <= high}


def _marks(frame: Frame, name: str, values: list[dict[str, Any]], row: int) -> Markup:
    y = _HEIGHT + _ROW * row + 12
    parts = [tag("text", _SYMBOLS[name], x=48, y=y, dy="0.35em", class_="end")]
    for ritz in values:
        if ritz["value"] is None:
            continue
        (x,) = frame.across(np.array([float(ritz["value"])]))
        cross = f"M{x - 4:.1f} {y - 4}l8 8m-8 0l8 -8"
        drawn = f"M{x:.1f} {y - 6}v12" if ritz["converged"] else cross
        parts.append(tag("path", d=drawn, class_=f"mark {name}"))
    return join(parts)
