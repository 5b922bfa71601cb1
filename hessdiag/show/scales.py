"""Axes made concrete: where they begin and end, what is marked on them, where a value lies."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from hessdiag.show.document import Array, Axis, Chart
from hessdiag.show.wording import plus_minus

_LARGEST = 1e300  # beyond it, and for NaN, a place on an axis cannot be computed
_LOG_SPAN = 30.0  # ratio of extremes from which a logarithmic axis reads better
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Scale:
    """An axis made concrete.

    Attributes:
        label: what it shows.
        kind: how values lie along it.
        low: value at its beginning.
        high: value at its end.
        ticks: values marked, with what is written there.
        threshold: of a symmetric-log axis.
    """

    label: str
    kind: Literal["linear", "log", "symlog"]
    low: float
    high: float
    ticks: dict[float, str]
    threshold: float = 1.0

    def place(self, values: ArrayLike) -> Array:
        """Map values to where they lie, in units of the axis."""
        array = np.asarray(values, float)
        if self.kind == "log":
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(array > 0, np.log10(np.maximum(array, 1e-320)), np.nan)
        return np.arcsinh(array / self.threshold) if self.kind == "symlog" else array

    def share(self, values: ArrayLike) -> Array:
        """Map values to [0, 1] along the axis."""
        low, high = self.place([self.low, self.high])
        return (self.place(values) - low) / (high - low)


def scales(chart: Chart) -> tuple[Scale, Scale]:
    """Make both axes of a chart concrete."""
    heights = [np.asarray(curve.y, float) for curve in chart.curves]
    for curve in chart.curves:
        if curve.errors is not None:
            y, errors = np.asarray(curve.y, float), np.asarray(curve.errors, float)
            heights += [y - errors, y + errors]
    return scale(chart.x, (curve.x for curve in chart.curves)), scale(chart.y, heights)


def scale(axis: Axis, shown: Iterable[ArrayLike]) -> Scale:
    """Make an axis concrete around what is shown."""
    values = np.concatenate([np.ravel(np.asarray(array, float)) for array in shown] or [[]])
    values = values[np.abs(values) < _LARGEST]
    least, most = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    low = least if axis.low is None else axis.low
    high = most if axis.high is None else axis.high
    if axis.scale == "symlog":
        return Scale(
            axis.label, "symlog", low, high, _decades_about_zero(low, high), axis.threshold
        )
    suits = axis.scale == "suitable" and low > 0 and high > _LOG_SPAN * low
    if (axis.scale == "log" or suits) and high > 0:
        return _logarithmic(axis, low if low > 0 else 1e-3 * high, high)
    return _linear(axis, low, high)


def exact(axis: Axis, points: Array) -> Scale:
    """Make an axis that reaches half a cell beyond its points."""
    half = (points[1] - points[0]) / 2 if len(points) > 1 else 0.5
    low, high = float(points[0] - half), float(points[-1] + half)
    return _linear(replace(axis, low=low, high=high), low, high)


def decade(power: int) -> str:
    """Write a power of ten."""
    return "1" if power == 0 else "10" + str(power).translate(_SUPERSCRIPTS)


def _linear(axis: Axis, low: float, high: float) -> Scale:
    """Reach from round value to round value, whole ones for counts, where no end is given."""
    from hessdiag.show.plotting import ticks

    if not low < high:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    whole = axis.whole and high < 1e12  # beyond, steps of one are lost in rounding
    try:
        marks = ticks.round_values(low, high, whole=whole)
    except ValueError as error:  # a reach near the largest of all numbers
        raise OverflowError(f"from {low:.4g} to {high:.4g}") from error
    low = float(marks[0]) if axis.low is None else low
    high = float(marks[-1]) if axis.high is None else high
    shown = {float(mark): tick(float(mark)) for mark in marks if low <= mark <= high}
    return Scale(axis.label, "linear", low, high, shown)


def _logarithmic(axis: Axis, low: float, high: float) -> Scale:
    """Reach from decade to decade."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    step = max(1, -(-(last - first) // 6))
    decades = range(first, last + 1)
    ticks = {10.0**power: decade(power) for power in decades if power % step == 0}
    return Scale(axis.label, "log", 10.0**first, 10.0**last, ticks)


def _decades_about_zero(low: float, high: float) -> dict[float, str]:
    """Mark zero and three decades on each side, as far as they are in sight."""
    last = math.floor(math.log10(max(-low, high, 1e-300)))
    powers = range(last - 2, last + 1)
    ticks = {0.0: "0", **{10.0**power: decade(power) for power in powers}}
    ticks |= {-(10.0**power): f"−{decade(power)}" for power in powers}
    return {value: label for value, label in ticks.items() if low <= value <= high}


def tick(value: float) -> str:
    """Write a value at its place, with a minus sign proper."""
    return plus_minus(value, None).replace("-", "−")
