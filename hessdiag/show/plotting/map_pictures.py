"""Maps of a document: as pictures in a page, and as panels of a figure."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, PowerNorm
from matplotlib.image import imsave

from hessdiag.errors import printable
from hessdiag.show.document import Array, Map
from hessdiag.show.markup import Markup, join, tag
from hessdiag.show.scales import Scale, exact, tick
from hessdiag.show.shading import Shading
from hessdiag.show.svg import Frame, svg

_COLOURS = {"loss": "viridis", "hessian": "viridis", "gn": "GnBu_r", "nme": "inferno"}
_WIDTH, _HEIGHT = 360, 330
_MOST_CELLS = 400  # a side, in a page
_NUM_CONTOURS = 14


def picture(shown: Map) -> Markup:
    """Draw a map in a frame, θ marked; what is not finite is grey."""
    shading = Shading.of(*shown.among)
    x, y = sides(shown)
    frame = Frame(x, y, _WIDTH, _HEIGHT)
    left, right = frame.across([x.low, x.high])
    bottom, top = frame.up([y.low, y.high])
    shades = colormaps[_COLOURS[shown.colours]].with_extremes(bad="0.6")
    every = -(-max(shown.values.shape) // _MOST_CELLS)
    upright = shown.values[::every, ::every].T[::-1]
    pixels = shades(np.ma.array(shading.shade(upright), mask=~np.isfinite(upright)))
    content = join(
        (
            _image(pixels, x=left, y=top, width=right - left, height=bottom - top),
            _theta(frame) if shown.centred else join(()),
            frame.draw(),
            _colour_bar(shades(np.linspace(0, 1, 128)[None]), shading, left, right),
        )
    )
    title = f"{shown.title} over the plane" if shown.centred else shown.title
    drawn = svg(title, content, _WIDTH, _HEIGHT + 38, kind="map")
    upwards = tag("p", f"↑ {y.label}", class_="upright")
    return tag("figure", tag("figcaption", shown.title), upwards, drawn)


def _theta(frame: Frame) -> Markup:
    across, up = float(frame.across(0.0)), float(frame.up(0.0))
    return tag("path", d=f"M{across - 6:.1f} {up:.1f}h12m-6 -6v12", class_="theta")


def sides(shown: Map) -> tuple[Scale, Scale]:
    """Make axes that reach half a cell beyond the outermost points."""
    return exact(shown.x, shown.across), exact(shown.y, shown.up)


def _colour_bar(pixels: Array, shading: Shading, left: float, right: float) -> Markup:
    kind = {"linear": "", "log": "logarithmic", "root": "square root"}[shading.kind]
    words = (
        (tick(shading.low), left, "start"),
        (kind, (left + right) / 2, "middle"),
        (tick(shading.high), right, "end"),
    )
    texts = (tag("text", word, x=x, y=_HEIGHT + 32, class_=where) for word, x, where in words)
    bar = _image(pixels, x=left, y=_HEIGHT + 6, width=right - left, height=10)
    return join((bar, *texts))


def _image(colours: Array, **place: float) -> Markup:
    """Embed pixels, one a cell."""
    buffer = io.BytesIO()
    imsave(buffer, colours, format="png", metadata={"Software": "hessdiag"})
    data = base64.b64encode(buffer.getvalue()).decode()
    return tag("image", href=f"data:image/png;base64,{data}", preserveAspectRatio="none", **place)


def panel(figure: Any, axes: Any, shown: Map) -> None:
    """Draw a heat map with its colour bar, θ marked; what is not finite stays grey."""
    shading = Shading.of(*shown.among)
    norm, (x, y) = _norm(shading), sides(shown)
    colour_map = colormaps[_COLOURS[shown.colours]].with_extremes(bad="0.75")
    with np.errstate(invalid="ignore"):
        values = np.ma.masked_invalid(np.clip(shown.values, norm.vmin, norm.vmax)).T
    place = {"extent": (x.low, x.high, y.low, y.high), "origin": "lower", "aspect": "auto"}
    axes.imshow(values, norm=norm, cmap=colour_map, interpolation="nearest", **place)
    if shown.centred:
        axes.plot(0, 0, "+", color="white", ms=9, mew=1.2)
    axes.set_box_aspect(1)
    axes.set_xlabel(printable(x.label), parse_math=False)
    axes.set_ylabel(printable(y.label), parse_math=False)
    figure.colorbar(ScalarMappable(norm, colour_map), ax=axes, fraction=0.05, pad=0.03)
    if shown.contours:
        _contours(axes, shown, shading)
    if shown.remark:
        text = {"color": "white", "ha": "center", "va": "center", "parse_math": False}
        axes.text(0.5, 0.62, printable(shown.remark), transform=axes.transAxes, **text)


def _norm(shading: Shading) -> Normalize:
    low, high = shading.low, shading.high
    if low == high:  # a constant: any range around it will do
        low, high = min(low, 0.0), high or 1.0
    if shading.kind == "log":
        return LogNorm(low, high)
    return PowerNorm(0.5, low, high) if shading.kind == "root" else Normalize(low, high)


def _contours(axes: Any, shown: Map, shading: Shading) -> None:
    """Draw lines of equal value, evenly spaced on the colour scale."""
    finite = shown.values[np.isfinite(shown.values)]
    if shading.low == shading.high or not len(finite) or min(shown.values.shape) < 2:
        return
    space = np.geomspace if shading.kind == "log" else np.linspace
    levels = space(shading.low, shading.high, _NUM_CONTOURS + 2)[1:-1]
    levels = levels[(levels > finite.min()) & (levels < finite.max())]  # others are warned of
    if len(levels):
        table = np.ma.masked_invalid(shown.values).T
        lines = {"levels": levels, "colors": "white", "linewidths": 0.7, "alpha": 0.7}
        axes.contour(shown.across, shown.up, table, **lines)
