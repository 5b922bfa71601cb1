"""The landscape report as a plot."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure

from hessdiag.errors import printable
from hessdiag.landscapes.surfaces import Array, Landscape, Surface, has_kinks
from hessdiag.metadata import Provenance
from hessdiag.reports.figures import blank
from hessdiag.reports.landscape import NORMS
from hessdiag.reports.landscape.scale import Scale
from hessdiag.reports.landscape.text import surface_name
from hessdiag.reports.wording import title

_MAPS = {"loss": "viridis", "gn": "GnBu_r", "nme": "inferno"}
_TITLES = {
    "loss": "loss",
    **NORMS,
    "gn_full": "Gauss-Newton norm, all parameters",
    "nme_full": "NME norm, all parameters",
}
_NUM_CONTOURS = 14


def landscape_figure(found: Landscape, provenance: Provenance | None = None) -> Figure:
    """Draw loss and norms as heat maps, one row for each surface, one scale for each column."""
    columns = {name: [_table(surface, name) for surface in found.surfaces] for name in _TITLES}
    shown = {name: tables for name, tables in columns.items() if tables[0] is not None}
    num_rows = len(found.surfaces)
    figure = blank(3.75 * len(shown) + 0.4, 3.15 * num_rows + (0.85 if provenance else 0.55))
    grid: Any = figure.subplots(num_rows, len(shown), sharex=True, sharey=True, squeeze=False)
    for column, (name, tables) in enumerate(shown.items()):
        tables = [table for table in tables if table is not None]
        scale = Scale.of(*tables)
        for row, (surface, table) in enumerate(zip(found.surfaces, tables, strict=True)):
            axes: Axes = grid[row, column]
            _panel(figure, axes, found, table, scale, _MAPS[name.split("_")[0]])
            if name == "loss":
                _contours(axes, found, table, scale)
            if row == 0:
                axes.set_title(_TITLES[name], fontsize=11)
            if not table.any():
                kinks = " away from the kinks" if has_kinks(surface) else " at every point"
                axes.text(
                    *(0.5, 0.62, f"0{kinks}"),
                    transform=axes.transAxes,
                    color="white",
                    ha="center",
                    va="center",
                )
            if row == num_rows - 1:
                axes.set_xlabel(printable(found.labels[0]), parse_math=False)
    for row, surface in enumerate(found.surfaces):
        first: Axes = grid[row, 0]
        name = surface_name(surface)
        label = printable("\n\n".join(filter(None, (name, found.labels[1]))))
        first.set_ylabel(label, parse_math=False)
    if provenance is not None:
        figure.suptitle(printable(title(provenance)), fontsize=12, parse_math=False)
    return figure


def _table(surface: Surface, name: str) -> Array | None:
    found = getattr(surface, name)
    return getattr(found, "value", found)


def _panel(
    figure: Figure, axes: Axes, found: Landscape, table: Array, scale: Scale, colours: str
) -> None:
    """Draw one heat map with its colour bar, θ marked; what is not finite stays grey."""
    half_a, half_b = ((side[1] - side[0]) / 2 for side in (found.a, found.b))
    norm = _norm(scale)
    colour_map = colormaps[colours].with_extremes(bad="0.75")
    with np.errstate(invalid="ignore"):
        values = np.ma.masked_invalid(np.clip(table, norm.vmin, norm.vmax)).T
    axes.imshow(
        values,
        norm=norm,
        cmap=colour_map,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(
            found.a[0] - half_a,
            found.a[-1] + half_a,
            found.b[0] - half_b,
            found.b[-1] + half_b,
        ),
    )
    axes.plot(0, 0, "+", color="white", markersize=9, markeredgewidth=1.2)
    axes.set_box_aspect(1)
    axes.tick_params(labelsize=8)
    bar = figure.colorbar(ScalarMappable(norm, colour_map), ax=axes, fraction=0.05, pad=0.03)
    bar.ax.tick_params(which="both", labelsize=8)


def _norm(scale: Scale) -> Normalize:
    low, high = scale.low, scale.high
    if low == high:  # a constant: any range around it will do
        low, high = min(low, 0.0), high or 1.0
    if scale.kind == "log":
        return LogNorm(low, high)
    return PowerNorm(0.5, low, high) if scale.kind == "root" else Normalize(low, high)


def _contours(axes: Axes, found: Landscape, table: Array, scale: Scale) -> None:
    """Draw lines of equal loss, evenly spaced on the colour scale."""
    finite = table[np.isfinite(table)]
    if scale.low == scale.high or not len(finite):
        return
    space = np.geomspace if scale.kind == "log" else np.linspace
    levels = space(scale.low, scale.high, _NUM_CONTOURS + 2)[1:-1]
    levels = levels[(levels > finite.min()) & (levels < finite.max())]  # others are warned of
    if len(levels):
        axes.contour(
            found.a,
            found.b,
            np.ma.masked_invalid(table).T,
            levels=levels,
            colors="white",
            linewidths=0.7,
            alpha=0.7,
        )
