"""Charts as inline SVG, coloured by the page's style sheet, so that they suit light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hessdiag.show.markup import Markup, join, number, tag

Array = NDArray[np.float64]

STYLES = ("a", "b", "c", "d", "e", "f")
"""Classes of curves that are no parts of the decomposition; each has colour and dashes."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 10, 46
_LOG_SPAN = 30.0  # ratio of extremes from which a logarithmic axis reads better
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """A line on which values are placed.

    Attributes:
        label: what it shows.
        to_axis: maps values to where they lie, increasing.
        low: value at its beginning.
        high: value at its end.
        ticks: values marked, with what is written there.
    """

    label: str
    to_axis: Callable[[Array], Array]
    low: float
    high: float
    ticks: dict[float, str]

    def share(self, values: Array) -> Array:
        """Map values to [0, 1] along the axis."""
        low, high = self.to_axis(np.array([self.low, self.high]))
        return (self.to_axis(values) - low) / (high - low)


@dataclass(frozen=True)
class Curve:
    """A line through points.

    Attributes:
        label: in the legend.
        style: class of the style sheet.
        x: places along the horizontal axis.
        y: heights; NaN breaks the line.
        errors: half-lengths of error bars, or None for none.
        dots: whether the points are marked.
    """

    label: str
    style: str
    x: Array
    y: Array
    errors: Array | None = None
    dots: bool = False


def values(found: Iterable[float | None]) -> Array:
    """Turn numbers of JSON into an array, null into NaN."""
    return np.array([math.nan if value is None else value for value in found], float)


def linear(label: str, *shown: Array, whole: bool = False) -> Axis:
    """Make an axis from round value to round value, whole ones for counts, around what is shown."""
    seen = np.concatenate(shown)
    seen = seen[np.isfinite(seen)]
    least, most = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
    if least == most:
        least, most = least - 0.5 * (abs(least) or 1), most + 0.5 * (abs(most) or 1)
    marks = MaxNLocator(5, steps=[1, 2, 5, 10], integer=whole).tick_values(least, most)
    ticks = {float(mark): number(float(mark)) for mark in marks}
    return Axis(label, lambda x: x, float(marks[0]), float(marks[-1]), ticks)


def logarithmic(label: str, low: float, high: float) -> Axis:
    """Make an axis of decades; both ends must be above 0."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = max(1, -(-(last - first) // 6))
    decades = range(first, max(last, first + 1) + 1)
    ticks = {10.0**power: decade(power) for power in decades if power % step == 0}
    return Axis(label, np.log10, 10.0 ** decades[0], 10.0 ** decades[-1], ticks)


def suitable(label: str, *shown: Array) -> Axis:
    """Choose decades where the values are above 0 and differ much, else a linear axis."""
    seen = np.concatenate(shown)
    seen = seen[np.isfinite(seen)]
    if len(seen) and seen.min() > 0 and seen.max() > _LOG_SPAN * seen.min():
        return logarithmic(label, float(seen.min()), float(seen.max()))
    return linear(label, *shown)


def decade(power: int) -> str:
    """Write a power of ten."""
    return "1" if power == 0 else "10" + str(power).translate(_SUPERSCRIPTS)


@dataclass(frozen=True)
class Frame:
    """The rectangle of a chart between its axes, in units of its picture."""

    x: Axis
    y: Axis
    width: int
    height: int

    def across(self, found: Array) -> Array:
        """Place values of the horizontal axis."""
        return _LEFT + self.x.share(found) * (self.width - _LEFT - _RIGHT)

    def up(self, found: Array) -> Array:
        """Place values of the vertical axis."""
        return self.height - _BOTTOM - self.y.share(found) * (self.height - _TOP - _BOTTOM)

    def draw(self) -> Markup:
        """Draw grid, ticks and labels."""
        left, right, top, bottom = _LEFT, self.width - _RIGHT, _TOP, self.height - _BOTTOM
        parts: list[Markup] = []
        for value, label in self.y.ticks.items():
            (y,) = self.up(np.array([value]))
            parts.append(tag("path", d=f"M{left} {y:.1f}H{right}", class_="rule"))
            parts.append(tag("text", label, x=left - 7, y=y, dy="0.35em", class_="end"))
        for value, label in self.x.ticks.items():
            (x,) = self.across(np.array([value]))
            parts.append(tag("path", d=f"M{x:.1f} {top}V{bottom}", class_="rule"))
            parts.append(tag("text", label, x=x, y=bottom + 17, class_="middle"))
        parts.append(tag("path", d=f"M{left} {bottom}H{right}", class_="axis"))
        middle = (left + right) / 2
        parts.append(tag("text", self.x.label, x=middle, y=self.height - 6, class_="middle name"))
        return join(parts)


def chart(
    x: Axis,
    y: Axis,
    curves: Sequence[Curve],
    *,
    title: str | None = None,
    width: int = 420,
    height: int = 260,
    below: Markup | None = None,
    extra: int = 0,
) -> Markup:
    """Draw curves over two axes, with title and legend.

    Args:
        x: horizontal axis.
        y: vertical axis; its label stands above.
        curves: one at least.
        title: what it shows; None where the vertical axis says it.
        width: of the picture, in units of 12-unit text.
        height: of the picture.
        below: what is drawn under the chart, in units of the picture.
        extra: height that this takes.
    """
    frame = Frame(x, y, width, height)
    drawn = join((frame.draw(), *(_draw(frame, curve) for curve in curves), below or ""))
    name = title or y.label
    picture = svg(name, drawn, width, height + extra, kind="wide" if width > 500 else "chart")
    upright = tag("p", y.label, class_="upright") if title else None
    return figure(name, legend(curves) if len(curves) > 1 else None, upright, picture)


def figure(title: str, *content: object) -> Markup:
    """Put a picture under its title."""
    shown = (part for part in content if part is not None)
    return tag("figure", tag("figcaption", title), *shown)


def svg(title: str, content: Markup, width: float, height: float, *, kind: str) -> Markup:
    """Make a picture that says what it is; ``kind`` is its class in the style sheet."""
    return tag(
        "svg",
        tag("title", title),
        content,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=title,
        class_=kind,
    )


def legend(curves: Sequence[Curve]) -> Markup:
    """Name the curves beside samples of their lines."""
    return tag(
        "ul",
        *(
            tag(
                "li",
                tag(
                    "svg",
                    tag("path", d="M0 5H26", class_=f"curve {curve.style}"),
                    viewBox="0 0 26 10",
                    aria_hidden="true",
                ),
                curve.label,
            )
            for curve in curves
        ),
        class_="legend",
    )


def grid(figures: Iterable[Markup]) -> Markup:
    """Put figures side by side, as many as there is room for."""
    return tag("div", *figures, class_="grid")


def _draw(frame: Frame, curve: Curve) -> Markup:
    x, y = frame.across(curve.x), frame.up(curve.y)
    seen = np.isfinite(x) & np.isfinite(y)
    steps: list[str] = []
    for place, here in enumerate(seen):
        if here:
            command = "L" if place and seen[place - 1] else "M"
            steps.append(f"{command}{x[place]:.1f} {y[place]:.1f}")
    parts = [tag("path", d="".join(steps), class_=f"curve {curve.style}")]
    if curve.errors is not None:
        low, high = frame.up(curve.y - curve.errors), frame.up(curve.y + curve.errors)
        bars = "".join(
            f"M{at:.1f} {one:.1f}V{other:.1f}"
            for at, one, other in zip(x, low, high, strict=True)
            if np.isfinite([at, one, other]).all()
        )
        parts.append(tag("path", d=bars, class_=f"curve error {curve.style}"))
    if curve.dots:
        parts += [
            tag("circle", cx=float(a), cy=float(b), r=3, class_=f"dot {curve.style}")
            for a, b in zip(x[seen], y[seen], strict=True)
        ]
    return join(parts)


def bars(shown: Sequence[tuple[str, float | None]], low: float, high: float) -> Markup:
    """Draw thin bars from zero, one below the other, beside numbers that say the same.

    Args:
        shown: style and value of each; null draws none.
        low: value at the left end, at most 0.
        high: value at the right end, at least 0.
    """
    span = (high - low) or 1.0
    zero = -low / span * 150
    parts = [tag("path", d=f"M{zero:.1f} 0V{7 * len(shown)}", class_="axis")]
    for row, (style, value) in enumerate(shown):
        length = 150 * (value or 0.0) / span
        parts.append(
            tag(
                "rect",
                x=zero + min(length, 0.0),
                y=7 * row + 1,
                width=abs(length),
                height=5,
                class_=f"bar {style}",
            )
        )
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 150 {7 * len(shown)}",
        class_="bars",
        aria_hidden="true",
    )


def interval(middle: float | None, low: float | None, high: float | None, axis: Axis) -> Markup:
    """Draw a value with its interval on an axis that the rows of a table share."""
    places = 5 + 140 * axis.share(values([middle, low, high]))
    parts: list[Markup] = []
    if np.isfinite(places[1:]).all():
        parts.append(tag("path", d=f"M{places[1]:.1f} 8H{places[2]:.1f}", class_="curve"))
    if np.isfinite(places[0]):
        parts.append(tag("circle", cx=float(places[0]), cy=8, r=4, class_="dot"))
    return tag("svg", *parts, viewBox="0 0 150 16", class_="bars", aria_hidden="true")
