"""Round values along an axis."""

from __future__ import annotations

from matplotlib.ticker import MaxNLocator


def round_values(low: float, high: float, *, whole: bool) -> list[float]:
    """List about five round values in equal steps that hold ``low`` and ``high``.

    Raises:
        ValueError: a reach near the largest of all numbers.
    """
    return list(MaxNLocator(5, steps=[1, 2, 5, 10], integer=whole).tick_values(low, high))
