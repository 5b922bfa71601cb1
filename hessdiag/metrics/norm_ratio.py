"""The ratio of two Frobenius norms whose samples share their probes."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from scipy import optimize

from hessdiag.linalg.trace import Array, Estimate, estimate_mean

Interval = tuple[float, float]
_MANY = 1e18  # times the estimate: a denominator that may as well be zero


def fieller(over: Iterable[float], under: Iterable[float]) -> Estimate:
    """Estimate ``‖N‖_F/‖G‖_F`` from ``‖Nv‖²`` and ``‖Gv‖²`` of the same probes.

    The 95 % interval holds the roots of all r for which the mean of ``‖Nv‖² − r‖Gv‖²`` may be 0:
    it knows how the norms depend on each other, and that the denominator may be small.

    Source: Fieller (1954), J. R. Statist. Soc. B 16, 175-185.
    """
    above, below, value = _in_units(over, under)
    square, count = float(above.any()), len(above)
    if count < 2:
        return Estimate(value, None, None, count)

    def ends(r: float) -> Interval:
        return estimate_mean(above - r * below).ci95 or (0.0, 0.0)

    def root(side: int, low: float, high: float) -> float:
        near, far = sorted((low, high), key=lambda r: abs(r - square))
        if ends(near)[side] * ends(far)[side] >= 0:  # also where rounding is all there is
            return near
        return float(optimize.brentq(lambda r: ends(r)[side], low, high))  # pyright: ignore[reportArgumentType]

    low = root(0, 0.0, square) if ends(0.0)[0] > 0 else 0.0
    most = max(2 * square, float(np.finfo(float).tiny))
    while ends(most)[1] >= 0 and most < _MANY * square:
        most *= 2
    high = root(1, square, most) if ends(most)[1] < 0 else math.inf
    stderr = value * float((above - below).std(ddof=1)) / (2 * math.sqrt(count))
    above_all = value * math.sqrt(high) if math.isfinite(high) else math.inf
    return Estimate(value, stderr, (value * math.sqrt(low), above_all), count)


def linearised_ratio(over: Iterable[float], under: Iterable[float]) -> Array:
    """Expand the ratio about the means of its samples: ``r(1 + (x/x̄ − y/ȳ)/2)``."""
    above, below, ratio = _in_units(over, under)
    return ratio * (1 + (above - below) / 2)


def _in_units(over: Iterable[float], under: Iterable[float]) -> tuple[Array, Array, float]:
    """Divide the samples of the probes that both have met by their means; tell ``‖N‖_F/‖G‖_F``."""
    above, below = np.array(list(zip(over, under, strict=False))).T
    means = float(above.mean()), float(below.mean())
    return above / (means[0] or 1.0), below / means[1], math.sqrt(means[0]) / math.sqrt(means[1])


def linearised_norm(squared_norms: Iterable[float]) -> Array:
    """Expand the root √x about the mean m of the samples x of ‖Av‖²: ``√m + (x − m)/(2√m)``."""
    squares = np.array(squared_norms)
    root = math.sqrt(float(squares.mean()))
    return (squares / root + root) / 2 if root else squares


def independent_ratio(nme: Estimate, gn: Estimate) -> Estimate:
    """Estimate the ratio of two norms of which no samples are kept, in reports of hessdiag 0.1.

    The interval divides those of the norms; the relative standard errors are added, which bounds
    that of the ratio however the norms depend on each other.
    """
    value, count = nme.value / gn.value, min(nme.num_probes, gn.num_probes)
    if nme.stderr is None or gn.stderr is None or nme.ci95 is None or gn.ci95 is None:
        return Estimate(value, None, None, count)
    error = (nme.stderr + value * gn.stderr) / gn.value
    return Estimate(value, error, quotient(nme.ci95, gn.ci95), count)


def quotient(over: Interval, under: Interval) -> Interval:
    """Divide intervals of numbers that are not negative."""
    low, high = max(over[0], 0.0), max(over[1], 0.0)
    return low / under[1], high / under[0] if under[0] > 0 else math.inf
