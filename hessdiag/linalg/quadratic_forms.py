"""Intervals that hold with the chance they promise, for means of quadratic forms of probes.

Nothing is assumed of A but symmetry, and nothing is asymptotic. What makes this possible is that
quadratic forms of Rademacher or Gaussian probes v have moments in fixed proportion:

* ``Var vᵀAv ≤ 2‖A‖²_F = 2 E‖Av‖²``, so that the squared norms bound the forms' variance;
* ``E (vᵀAv − tr A)⁴ ≤ 15 (Var vᵀAv)²``, so that the sample variance bounds it as well (for
  Rademacher probes, with the zero-diagonal part B of A, the left side is at most
  ``12‖B‖⁴_F + 48 tr B⁴``, found by counting the closed walks of four steps);
* ``E ‖Av‖⁴ ≤ 3 (E‖Av‖²)²``, so that the mean of few squared norms cannot be far below theirs.

A variance once bounded, the mean is bounded by bets: a gambler against the hypothesis that the mean
is m multiplies his capital by ``1 + z + z²/3`` over ``1 + λ²σ²/3`` for each sample x, z = λ(x − m),
with a stake λ that depends on earlier samples alone. Where the hypothesis is true he gains nothing
on average, so his capital exceeds 1/α with chance α at most (Ville). Such intervals are nearly as
short as Student's, as ``√((s² + 2σ̄²)/3 · 2 log(1/α)/k)``, without resting on normality.

All functions take samples ``(…, k)`` and work along the last axis.

Source: Catoni (2012), Ann. Inst. H. Poincaré 48, 1148-1185; Waudby-Smith and Ramdas (2024),
J. R. Statist. Soc. B 86, 1-27.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Array = NDArray[np.float64]
Ends = tuple[Array, Array]

_PAIRED_KURTOSIS = 9.0  # of (x − y)/√2 for independent forms x, y: (15 + 3)/2
_SQUARES_RATIO = 3.0  # of the second moment of ‖Av‖² to its squared mean
_PRIOR_WEIGHT = 4  # samples that the first guess of a variance counts as
_DOUBLINGS, _HALVINGS = 60, 24  # ends are rounded outwards by 1e-7 of their arm at most


def form_interval(forms: Array, squares: Array | None, alpha: float) -> Ends:
    """Bound tr A from ``vᵀAv`` and ``‖Av‖²``, wrongly with probability ``alpha`` at most.

    Args:
        forms: ``(…, k)``; also of one layer, ``v_lᵀ(Av)_l``.
        squares: ``(…, k)`` of the same probes, of a layer ``‖(Av)_l‖²``; None where not known,
            which takes several times the samples.
        alpha: in (0, 1).

    Returns:
        Lower and upper ends ``(…)``; infinite where so few samples allow nothing at this level.
    """
    variance = _variance_bound(forms, alpha / 6)
    guess = np.zeros_like(forms)
    if squares is not None and (share := least_share(forms.shape[-1], _SQUARES_RATIO, alpha / 6)):
        variance = np.minimum(variance, 2 * squares.mean(-1) / share)
        guess = 2 * _earlier_mean(squares)
    return _bet(forms, _stakes(forms, guess, alpha / 3), variance, alpha / 3)


def square_interval(squares: Array, alpha: float) -> Ends:
    """Bound ``‖A‖²_F`` from ``‖Av‖²``, wrongly with probability ``alpha`` at most.

    Half of ``alpha`` belongs to :func:`scale_interval`, half to bets.

    Args:
        squares: ``(…, k)``.
        alpha: in (0, 1).
    """
    variance = _variance_bound(squares, alpha / 6)
    stakes = _stakes(squares, 2 * _earlier_mean(squares) ** 2, alpha / 6)
    low, high = _bet(squares, stakes, variance, alpha / 6)
    least, most = scale_interval(squares.mean(-1), squares.shape[-1], alpha / 2)
    return np.maximum(low, least), np.minimum(high, most)


def scale_interval(mean: Array, count: int, alpha: float) -> Ends:
    """Bound ``‖A‖²_F`` from the mean of ``count`` values of ``‖Av‖²`` alone.

    Their sum is above its mean at most as a χ² of ``count`` degrees of freedom is (Chernoff), and
    below it as :func:`least_share` says.
    """
    rate = 2 * math.log(2 / alpha) / count
    excess = optimize.brentq(lambda s: s - 1 - math.log(s) - rate, 1.0, 4 + 4 * rate)
    share = least_share(count, _SQUARES_RATIO, alpha / 2)
    return mean / excess, mean / share if share else np.full_like(mean, math.inf)


@functools.cache
def least_share(count: int, ratio: float, alpha: float) -> float:
    """Bound how far below its expectation the mean of non-negative samples can be.

    With probability 1 − α the mean of ``count`` independent ``z ≥ 0`` with ``E z² ≤ ratio (E z)²``
    is at least this share of E z; 0 where nothing can be said. Of all such z, the one that is 0 or
    ``ratio · E z`` has the largest ``E exp(−tz)``, so that the bound is Chernoff's of a binomial.
    """
    chance, rate = 1 / ratio, -math.log(alpha) / count

    def excess(q: float) -> float:
        seen = q * math.log(q / chance) if q else 0.0
        return seen + (1 - q) * math.log((1 - q) / (1 - chance)) - rate

    return ratio * optimize.brentq(excess, 0.0, chance) if excess(0.0) > 0 else 0.0


def _variance_bound(samples: Array, alpha: float) -> Array:
    """Bound the variance from above by the sample variance.

    It is a mean over all ways to pair the samples of ``(x − y)²/2``, to which the bound for k/2
    independent pairs applies (Hoeffding 1963).
    """
    count = samples.shape[-1]
    share = least_share(count // 2, _PAIRED_KURTOSIS, alpha) if count > 1 else 0.0
    if not share:
        return np.full(samples.shape[:-1], math.inf)
    return samples.var(-1, ddof=1) / share


def _earlier_mean(samples: Array) -> Array:
    """Give the mean of the samples before each; 0 before the first."""
    sums = np.cumsum(samples, -1) - samples
    return sums / np.maximum(np.arange(samples.shape[-1]), 1)


def _stakes(samples: Array, guess: Array, alpha: float) -> Array:
    """Choose the stake on each sample from those before it: ``√(2 log(1/α)/k)`` over their spread.

    Args:
        samples: ``(…, k)``.
        guess: of their variance, from what is known before each.
        alpha: chance of error of one end.
    """
    count = samples.shape[-1]
    earlier = np.arange(count)
    centred = samples - samples[..., :1]  # against cancellation; the first is no stake's own sample
    means = _earlier_mean(centred)
    spread = np.maximum(_earlier_mean(centred**2) - means**2, 0.0)
    variance = (earlier * spread + _PRIOR_WEIGHT * guess) / (earlier + _PRIOR_WEIGHT)
    wanted = math.sqrt(-2 * math.log(alpha) / count)
    stakes = wanted / np.sqrt(np.where(variance > 0, variance, math.inf))
    stakes[..., 0] = 0.0
    return stakes


def _bet(samples: Array, stakes: Array, variance: Array, alpha: float) -> Ends:
    """Find the means that neither gambler refutes, of whom one bets on more and one on less."""
    mean = samples.mean(-1)
    unknown = ~np.isfinite(variance)
    spread = np.sqrt(np.where(unknown, 0.0, variance))
    taxes = np.log1p(np.square(stakes * spread[..., None]) / 3).sum(-1) - math.log(alpha)
    ends: list[Array] = []
    for sign in (-1.0, 1.0):
        centred = sign * (samples - mean[..., None])

        def refuted(arm: Array, centred: Array = centred) -> NDArray[np.bool_]:
            # his gain for z below −3/2 is held at its least, 1/4: so it grows with the arm
            z = np.maximum(stakes * (arm[..., None] - centred), -1.5)
            return np.log1p(z + z * z / 3).sum(-1) > taxes

        inner, outer = np.zeros_like(mean), spread
        for _ in range(_DOUBLINGS):
            short = ~refuted(outer)
            inner, outer = np.where(short, outer, inner), np.where(short, 2 * outer, outer)
            if not np.any(short & (spread > 0)):
                break
        else:
            outer = np.full_like(mean, math.inf)
        for _ in range(_HALVINGS):
            middle = (inner + outer) / 2
            far = refuted(middle)
            inner, outer = np.where(far, inner, middle), np.where(far, middle, outer)
        ends.append(mean + sign * np.where(unknown, math.inf, outer))
    return ends[0], ends[1]
