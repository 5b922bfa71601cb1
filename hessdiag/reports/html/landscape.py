"""The section of a landscape: maps of loss and norms, and their ranges."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.image import imsave
from numpy.typing import NDArray

from hessdiag.nets import activations
from hessdiag.reports.html import charts
from hessdiag.reports.html.charts import Axis, Frame
from hessdiag.reports.html.section import Section, subject
from hessdiag.reports.landscape import NORMS
from hessdiag.reports.landscape.scale import Scale
from hessdiag.show.markup import Markup, block, eigenvalue, join, number, table, tag

Array = NDArray[np.float64]

_MAPS = {"loss": "viridis", "gn": "GnBu_r", "nme": "inferno"}
_TITLES = {
    "loss": "loss",
    **NORMS,
    "gn_full": f"{NORMS['gn_norm']}, all parameters",
    "nme_full": f"{NORMS['nme_norm']}, all parameters",
}
_WIDTH, _HEIGHT = 360, 340
_MOST_CELLS = 400  # of a map, a side


def landscape(payload: dict[str, Any]) -> Section:
    """Lay out ``hessdiag.landscape/1``."""
    surfaces = payload["surfaces"]
    shown = [name for name in _TITLES if name in surfaces[0]]
    scales = {name: Scale.of(*(_table(surface, name) for surface in surfaces)) for name in shown}
    blocks: list[Markup] = []
    for surface in surfaces:
        name = surface["activation"]
        heading = activations.label(name, surface["beta"]) if name else "Maps"
        maps = [_map(payload, surface, field, scales[field]) for field in shown]
        blocks.append(block(heading, charts.grid(maps), _ranges(surface, shown)))
    if eigenvalues := payload["plane"]["eigenvalues"]:
        rows = zip(payload["plane"]["labels"], map(eigenvalue, eigenvalues), strict=False)
        blocks.append(block("Plane", table("What spans it", ["direction", "λ"], list(rows))))
    return Section("Landscape", subject(payload), list(_facts(payload)), blocks)


def _facts(payload: dict[str, Any]) -> Iterator[tuple[str, object]]:
    for surface in payload["surfaces"]:
        name = f", {surface['activation']}" if len(payload["surfaces"]) > 1 else ""
        for field in ("loss", *NORMS):
            yield f"{_TITLES[field]} at θ{name}", number(surface["origin"][field])
    a, b = payload["axes"]["a"], payload["axes"]["b"]
    yield "points", f"{len(a)} × {len(b)}"
    yield "plane", payload["plane"]["kind"]


def _table(surface: dict[str, Any], field: str) -> Array:
    """Take a table out of a surface; a sampled one holds standard errors besides."""
    rows = surface[field]
    found = np.array(rows["value"] if isinstance(rows, dict) else rows, float)
    if found.ndim != 2 or not found.size:
        raise ValueError("a surface is no table")
    return found


def _map(payload: dict[str, Any], surface: dict[str, Any], field: str, scale: Scale) -> Markup:
    """Draw a table as a picture in a frame, θ marked; what is not finite is grey."""
    a, b = (charts.values(payload["axes"][key]) for key in ("a", "b"))
    found = _table(surface, field)
    if found.shape != (len(a), len(b)):
        raise ValueError(f"{field} has shape {found.shape}, not {(len(a), len(b))}")
    x, y = (
        _exact(str(label), side)
        for label, side in zip(payload["plane"]["labels"], (a, b), strict=True)
    )
    frame = Frame(x, y, _WIDTH, _HEIGHT)
    left, right = frame.across(np.array([x.low, x.high]))
    bottom, top = frame.up(np.array([y.low, y.high]))
    (across,), (up,) = frame.across(np.zeros(1)), frame.up(np.zeros(1))
    shades = colormaps[_MAPS[field.split("_")[0]]].with_extremes(bad="0.6")
    every = -(-max(found.shape) // _MOST_CELLS)
    upright = found[::every, ::every].T[::-1]
    pixels = shades(np.ma.array(scale.shade(upright), mask=~np.isfinite(upright)))
    content = join(
        (
            _image(pixels, x=left, y=top, width=right - left, height=bottom - top),
            tag("path", d=f"M{across - 6:.1f} {up:.1f}h12m-6 -6v12", class_="theta"),
            frame.draw(),
            _colour_bar(shades(np.linspace(0, 1, 128)[None]), scale, left, right),
        )
    )
    title = _TITLES[field]
    picture = charts.svg(f"{title} over the plane", content, _WIDTH, _HEIGHT + 38, kind="map")
    return charts.figure(title, tag("p", f"↑ {y.label}", class_="upright"), picture)


def _colour_bar(pixels: Array, scale: Scale, left: float, right: float) -> Markup:
    kind = {"linear": "", "log": "logarithmic", "root": "square root"}[scale.kind]
    words = (
        (number(scale.low), left, "start"),
        (kind, (left + right) / 2, "middle"),
        (number(scale.high), right, "end"),
    )
    return join(
        (
            _image(pixels, x=left, y=_HEIGHT + 6, width=right - left, height=10),
            *(tag("text", word, x=x, y=_HEIGHT + 32, class_=where) for word, x, where in words),
        )
    )


def _exact(label: str, side: Array) -> Axis:
    """Make an axis that reaches half a cell beyond its points."""
    half = (side[1] - side[0]) / 2 if len(side) > 1 else 0.5
    low, high = float(side[0] - half), float(side[-1] + half)
    if not low < high:
        raise ValueError(f"the axis {label} does not increase")
    axis = charts.linear(label, side)
    ticks = {value: name for value, name in axis.ticks.items() if low <= value <= high}
    return dataclasses.replace(axis, low=low, high=high, ticks=ticks)


def _image(colours: Array, **place: float) -> Markup:
    """Embed pixels, one a cell."""
    buffer = io.BytesIO()
    imsave(buffer, colours, format="png", metadata={"Software": "hessdiag"})
    data = base64.b64encode(buffer.getvalue()).decode()
    return tag("image", href=f"data:image/png;base64,{data}", preserveAspectRatio="none", **place)


def _ranges(surface: dict[str, Any], shown: Sequence[str]) -> Markup:
    rows: list[list[object]] = []
    for field in shown:
        found = _table(surface, field)
        seen = found[np.isfinite(found)]
        ends = (number(float(seen.min())), number(float(seen.max()))) if len(seen) else ("–", "–")
        at = surface["origin"].get(field)
        centre = number(at["value"], at["stderr"]) if isinstance(at, dict) else number(at)
        rows.append([_TITLES[field], *ends, centre])
    caption = "Frobenius norms of the parts, restricted to the plane where not said otherwise"
    return table(caption, ["", "least", "largest", "at θ"], rows)
