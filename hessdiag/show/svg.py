"""Charts as inline SVG, coloured by the page's style sheet, so that they suit light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessdiag.show.document import Array, Bars, Chart, Curve, Marks
from hessdiag.show.markup import Markup, join, tag
from hessdiag.show.scales import Scale, scales

_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 10, 46
_ROW = 18  # of marks


@dataclass(frozen=True)
class Frame:
    """The rectangle of a chart between its axes, in units of its picture."""

    x: Scale
    y: Scale
    width: int
    height: int

    def across(self, values: ArrayLike) -> Array:
        """Place values of the horizontal axis."""
        return _LEFT + self.x.share(values) * (self.width - _LEFT - _RIGHT)

    def up(self, values: ArrayLike) -> Array:
        """Place values of the vertical axis."""
        return self.height - _BOTTOM - self.y.share(values) * (self.height - _TOP - _BOTTOM)

    def draw(self) -> Markup:
        """Draw grid, ticks and labels."""
        left, right, top, bottom = _LEFT, self.width - _RIGHT, _TOP, self.height - _BOTTOM
        parts: list[Markup] = []
        for value, label in self.y.ticks.items():
            y = float(self.up(value))
            parts.append(tag("path", d=f"M{left} {y:.1f}H{right}", class_="rule"))
            parts.append(tag("text", label, x=left - 7, y=y, dy="0.35em", class_="end"))
        for value, label in self.x.ticks.items():
            x = float(self.across(value))
            parts.append(tag("path", d=f"M{x:.1f} {top}V{bottom}", class_="rule"))
            parts.append(tag("text", label, x=x, y=bottom + 17, class_="middle"))
        parts.append(tag("path", d=f"M{left} {bottom}H{right}", class_="axis"))
        middle = (left + right) / 2
        parts.append(tag("text", self.x.label, x=middle, y=self.height - 6, class_="middle name"))
        return join(parts)


def chart(shown: Chart) -> Markup:
    """Draw a chart with title, legend, and its marks below."""
    width, height = (560, 290) if shown.wide else (420, 260)
    frame = Frame(*scales(shown), width, height)
    rows = [_marks(frame, marks, height + _ROW * at + 12) for at, marks in enumerate(shown.marks)]
    content = join((frame.draw(), *(_curve(frame, curve) for curve in shown.curves), *rows))
    extra = _ROW * len(rows) + 6 if rows else 0
    picture = svg(
        shown.title, content, width, height + extra, kind="wide" if shown.wide else "chart"
    )
    return tag(
        "figure",
        tag("figcaption", shown.title),
        _legend(shown.curves) if len(shown.curves) > 1 else "",
        tag("p", shown.y.label, class_="upright") if shown.y.label != shown.title else "",
        picture,
    )


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


def bars(shown: Bars) -> Markup:
    """Draw thin bars from zero."""
    span = (shown.high - shown.low) or 1.0
    zero = -shown.low / span * 150
    height = 7 * len(shown.values)
    parts = [tag("path", d=f"M{zero:.1f} 0V{height}", class_="axis")]
    for row, (style, value) in enumerate(shown.values):
        length = 150 * (value or 0.0) / span
        x, y = zero + min(length, 0.0), 7 * row + 1
        kind = f"bar {style}"
        parts.append(tag("rect", x=x, y=y, width=abs(length), height=5, class_=kind))
    return tag("svg", *parts, viewBox=f"0 0 150 {height}", class_="bars", aria_hidden="true")


def _legend(curves: Sequence[Curve]) -> Markup:
    """Name the curves beside samples of their lines."""

    def sample(style: str) -> Markup:
        line = tag("path", d="M0 5H26", class_=f"curve {style}")
        return tag("svg", line, viewBox="0 0 26 10", aria_hidden="true")

    return tag(
        "ul", *(tag("li", sample(curve.style), curve.label) for curve in curves), class_="legend"
    )


def _curve(frame: Frame, curve: Curve) -> Markup:
    heights = np.asarray(curve.y, float)
    floor = frame.y.low
    x, y = frame.across(curve.x), frame.up(np.where(heights < floor, floor, heights))
    y = np.where(_above(heights, floor), y, np.nan)
    seen = np.isfinite(x) & np.isfinite(y)
    steps = [
        f"{'L' if place and seen[place - 1] else 'M'}{x[place]:.1f} {y[place]:.1f}"
        for place in np.flatnonzero(seen)
    ]
    parts = [tag("path", d="".join(steps), class_=f"curve {curve.style}")]
    if curve.errors is not None:
        errors = np.asarray(curve.errors, float)
        ends = zip(x, frame.up(heights - errors), frame.up(heights + errors), strict=True)
        lines = (f"M{a:.1f} {b:.1f}V{c:.1f}" for a, b, c in ends if np.isfinite([a, b, c]).all())
        parts.append(tag("path", d="".join(lines), class_=f"curve error {curve.style}"))
    if curve.dots:
        parts += [
            tag("circle", cx=float(a), cy=float(b), r=3, class_=f"dot {curve.style}")
            for a, b in zip(x[seen], y[seen], strict=True)
        ]
    return join(parts)


def _above(heights: Array, floor: float) -> NDArray[np.bool_]:
    """Leave out what lies below the floor, but for the points where the curve meets it."""
    seen = np.concatenate([[False], heights >= floor, [False]])
    return np.asarray(seen[:-2] | seen[1:-1] | seen[2:])


def _marks(frame: Frame, marks: Marks, y: float) -> Markup:
    style = marks.style.split()[0]
    parts = [tag("text", marks.label, x=48, y=y, dy="0.35em", class_="end")]
    for value, sure in marks.values:
        x = float(frame.across(value))
        if np.isfinite(x):
            cross = f"M{x - 4:.1f} {y - 4}l8 8m-8 0l8 -8"
            drawn = f"M{x:.1f} {y - 6}v12" if sure else cross
            parts.append(tag("path", d=drawn, class_=f"mark {style}"))
    return join(parts)
