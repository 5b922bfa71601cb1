"""From points to tables: the grid of a landscape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch

from hessdiag.curvature.memory import available_bytes
from hessdiag.errors import InputError
from hessdiag.landscapes.landscape_result import Array, Point, SampledNorm
from hessdiag.linalg.trace import Estimate

_BYTES_PER_VALUE = 256  # in an array, as a Python float in a list, and as a line of JSON


def make_axis(resolution: int, radius: float, *, num_values: int) -> Array:
    """Make the coordinates of one side, ``(resolution,)``, symmetric about an exact zero.

    Args:
        resolution: points a side.
        radius: the outermost coordinate.
        num_values: values that will be kept for each point of the grid.

    Raises:
        InputError: out of range, or a grid that memory cannot hold.
    """
    whole = isinstance(resolution, Integral) and not isinstance(resolution, bool)
    if not whole or resolution < 2:
        raise InputError(
            "the resolution is out of range", got=resolution, wanted="a whole number, at least 2"
        )
    if not (math.isfinite(radius) and radius > 0):
        raise InputError("the radius is out of range", got=radius, wanted="a finite number above 0")
    needed = resolution**2 * num_values * _BYTES_PER_VALUE
    available = max(available_bytes(torch.device("cpu")), 0)
    if needed > available:
        fitting = math.isqrt(available // (num_values * _BYTES_PER_VALUE))
        raise InputError(
            "the grid is too large for the memory that is left",
            got=f"resolution {resolution}: {needed / 2**30:.1f} GiB for its values",
            wanted=f"at most {available / 2**30:.1f} GiB",
            hint=f"a resolution of at most {fitting}" if fitting >= 2 else None,
        )
    return radius * (np.arange(resolution) * 2.0 - (resolution - 1)) / (resolution - 1)


def tabulate(points: Sequence[Point], resolution: int) -> dict[str, Any]:
    """Lay points, row by row, out as the tables of a surface."""

    def table(values: list[float]) -> Array:
        return finite_or_nan(np.array(values).reshape(resolution, resolution))

    tables: dict[str, Any] = {
        name: table([getattr(point, name) for point in points])
        for name in ("loss", "gn_norm", "nme_norm")
    }
    for name in ("gn_full", "nme_full"):
        estimates: list[Estimate | None] = [getattr(point, name) for point in points]
        if any(estimates):
            tables[name] = SampledNorm(
                table([e.value if e else math.nan for e in estimates]),
                table([_stderr(e) for e in estimates]),
            )
    return tables


def finite_or_nan(values: Array) -> Array:
    """Copy with NaN for whatever is not finite."""
    return np.where(np.isfinite(values), values, np.nan)


def _stderr(estimate: Estimate | None) -> float:
    return math.nan if estimate is None or estimate.stderr is None else estimate.stderr
