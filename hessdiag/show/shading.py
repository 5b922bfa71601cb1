"""How a table of values is shaded: linear, logarithmic or square root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LOG_FROM, _LOG_UP_TO = 30.0, 1e4  # largest value over the first percentile


@dataclass(frozen=True)
class Shading:
    """Maps values from ``low`` to ``high`` to shades from 0 to 1.

    Attributes:
        kind: "linear", "log", or "root" where most values are next to nothing beside the largest.
        low: value of the lightest shade.
        high: value of the darkest.
    """

    kind: Literal["linear", "log", "root"]
    low: float
    high: float

    @classmethod
    def of(cls, *tables: Array) -> Shading:
        """Choose the scale that shows most of all ``tables`` together."""
        values = np.concatenate([table[np.isfinite(table)] for table in tables])
        if not len(values):
            return cls("linear", 0.0, 1.0)
        low, high = float(values.min()), float(values.max())
        floor = float(np.quantile(values, 0.01))  # a few points next to zero are no matter
        if low < 0 or high <= _LOG_FROM * floor:
            return cls("linear", low, high)
        if high <= _LOG_UP_TO * floor:
            return cls("log", floor, high)
        spiky = float(np.median(values)) < high / 10
        return cls("root" if spiky else "linear", 0.0, high)

    def shade(self, values: Array) -> Array:
        """Map values of any shape to [0, 1]; a constant table to 1, zero and NaN to 0."""
        if self.high == self.low:
            return np.where(np.isfinite(values) & (values != 0), 1.0, 0.0)
        # divided first, so that neither end overflows; what lies below the floor is clipped
        top = max(abs(self.low), abs(self.high))
        inside = np.clip(values, self.low, self.high) / top
        low, high = self.low / top, self.high / top
        if self.kind == "log":
            share = np.log(inside / low) / np.log(high / low)
        else:
            share = (inside - low) / (high - low)
        return np.nan_to_num(np.sqrt(share) if self.kind == "root" else share)
