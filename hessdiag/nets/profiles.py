"""Where an activation's second derivative is not zero, and how often Gaussian inputs meet it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from msgspec import Struct
from numpy.typing import NDArray
from scipy.special import ndtr

from hessdiag.errors import InputError
from hessdiag.nets import activations
from hessdiag.nets.curves import Curve, Elementwise

Array = NDArray[np.float64]

STANDARD_DEVIATIONS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
DEFAULT_THRESHOLD = 1e-3

_FINE, _FINE_STEP = 24.0, 1e-3  # in units of the width: the grid where φ'' lives
_FAR, _FAR_STEP = 800.0, 0.05  # exp(−800) is zero in float64, so nothing lies beyond
_BISECTIONS = 64
_ISOLATED = (
    1e-6  # in units of the width: a narrower gap is the rounding around a simple zero of φ''
)


class Interval(Struct, frozen=True):
    """An open interval; an end that is infinite is None in JSON."""

    low: float | None
    high: float | None

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends, infinite where not bounded."""
        low, high = self.low, self.high
        return -math.inf if low is None else low, math.inf if high is None else high


class GaussianShare(Struct, frozen=True):
    """Shares of pre-activations x ~ N(0, std²).

    Attributes:
        std: their standard deviation.
        nonzero: share with φ''(x) ≠ 0 in the dtype.
        above: share with |φ''(x)| > τ · max |φ''|.
    """

    std: float
    nonzero: float
    above: float


class Profile(Struct, frozen=True):
    """The second derivative of one activation.

    Attributes:
        activation: name.
        beta: β, or None.
        dtype: floating type in which φ'' counts as zero or not.
        threshold: τ.
        peak: max |φ''|.
        nonzero: where φ'' ≠ 0 in the dtype, isolated zeros aside.
        above: where |φ''| > τ · max |φ''|.
        gaussian: shares of Gaussian pre-activations, by standard deviation.
        points: ``(p,)`` values of x around the peak, for drawing.
        values: ``(p,)`` φ'' there.
    """

    activation: str
    beta: float | None
    dtype: str
    threshold: float
    peak: float
    nonzero: tuple[Interval, ...]
    above: tuple[Interval, ...]
    gaussian: tuple[GaussianShare, ...]
    points: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.points) != len(self.values):
            raise InputError("a profile has not a value for each point", got=self.activation)

    @property
    def is_bounded(self) -> bool:
        """Whether φ'' is zero far out."""
        intervals = (*self.nonzero, *self.above)
        return all(math.isfinite(end) for interval in intervals for end in interval.ends)


def profile(
    activation: str,
    beta: float | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    threshold: float = DEFAULT_THRESHOLD,
    stds: Sequence[float] = STANDARD_DEVIATIONS,
) -> Profile:
    """Find where φ'' is not zero, and the share of Gaussian pre-activations that fall there.

    The ends of the intervals are bisected to the last digit of float64, and the shares follow in
    closed form, ``Σ Φ(high/σ) − Φ(low/σ)``.

    Cost: a tenth of a second.

    Args:
        activation: one of :data:`hessdiag.nets.activations.NAMES`.
        beta: its β where it takes one.
        dtype: torch.float32 or torch.float64.
        threshold: τ, in [0, 1).
        stds: standard deviations of the pre-activations, positive.

    Raises:
        InputError: unknown activation, a β that does not fit, numbers out of range.

    Source: Dauphin, Agarwala and Mobahi (2024), section 4 and their figure on sparsity.
    """
    beta = activations.settle_beta(activation, beta)
    check_threshold(threshold)
    if dtype not in (torch.float32, torch.float64):
        raise InputError("unusable dtype", got=dtype, wanted="torch.float32 or torch.float64")
    for std in stds:
        if not (math.isfinite(std) and std > 0):
            raise InputError("a standard deviation is out of range", got=std, wanted="above 0")
    curve = activations.curve(activation, beta)
    second, scale = curve.second, curve.width
    peak = max_abs(curve)

    def size(x: Array, kind: torch.dtype) -> Array:
        return second(torch.from_numpy(x).to(kind)).abs().double().numpy()

    def is_nonzero(x: Array) -> NDArray[np.bool_]:
        return size(x, dtype) > 0

    def is_above(x: Array) -> NDArray[np.bool_]:
        return size(x, torch.float64) > threshold * peak

    grid = _grid(scale)
    nonzero = _intervals(is_nonzero, grid, gap=_ISOLATED * scale)
    above = _intervals(is_above, np.union1d(grid, _sign_changes(second, grid)), gap=0.0)
    points = _window(above, scale)
    return Profile(
        activation=activation,
        beta=beta,
        dtype=str(dtype).removeprefix("torch."),
        threshold=threshold,
        peak=peak,
        nonzero=nonzero,
        above=above,
        gaussian=tuple(GaussianShare(std, _mass(nonzero, std), _mass(above, std)) for std in stds),
        points=tuple(points.tolist()),
        values=tuple(second(torch.from_numpy(points)).tolist()),
    )


def check_threshold(threshold: float) -> None:
    """Refuse a τ outside [0, 1).

    Raises:
        InputError: it is.
    """
    if not 0 <= threshold < 1:
        raise InputError(
            "the threshold is out of range",
            got=threshold,
            wanted="a share of max |φ''|, at least 0 and below 1",
        )


def max_abs(curve: Curve) -> float:
    """Find max |φ''| over the real line: the largest on a grid, refined around it."""
    grid, best = _grid(curve.width), 0.0
    for _ in range(6):
        values = curve.second(torch.from_numpy(grid)).abs().numpy()
        at, best = int(values.argmax()), float(values.max())
        grid = np.linspace(grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)], 2001)
    return best


def _grid(scale: float) -> Array:
    fine = np.linspace(-_FINE, _FINE, round(2 * _FINE / _FINE_STEP) + 1)
    far = np.arange(_FINE + _FAR_STEP, _FAR + _FAR_STEP, _FAR_STEP)
    return scale * np.concatenate([-far[::-1], fine, far])


def _sign_changes(second: Elementwise, grid: Array) -> Array:
    """Bisect the zeros of φ'' at which it changes sign; |φ''| is below any τ only close to them."""

    def is_positive(x: Array) -> NDArray[np.bool_]:
        return second(torch.from_numpy(x)).numpy() > 0

    sign = np.sign(second(torch.from_numpy(grid)).numpy())
    at = np.flatnonzero(sign[:-1] * sign[1:] < 0)
    return _bisect(is_positive, grid[at], grid[at + 1])


def _intervals(
    inside: Callable[[Array], NDArray[np.bool_]], grid: Array, *, gap: float
) -> tuple[Interval, ...]:
    """Find the intervals on which ``inside`` holds; gaps of at most ``gap`` are bridged."""
    flags = inside(grid)
    at = np.flatnonzero(flags[:-1] != flags[1:])
    edges = _bisect(inside, grid[at], grid[at + 1]).tolist()
    if flags[0]:
        edges.insert(0, -math.inf)
    if flags[-1]:
        edges.append(math.inf)
    found: list[Interval] = []
    for low, high in zip(edges[::2], edges[1::2], strict=True):
        if found and low - found[-1].ends[1] <= gap:
            low = found.pop().ends[0]
        found.append(Interval(low, high))
    return tuple(found)


def _bisect(test: Callable[[Array], NDArray[np.bool_]], low: Array, high: Array) -> Array:
    """Find where ``test`` flips between each ``low`` and ``high``."""
    start, tiny = test(low), 1e-12 * (high - low)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        same = test(middle) == start
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    found = (low + high) / 2
    return np.where(np.abs(found) < tiny, 0.0, found)  # bisection never quite reaches zero


def _mass(intervals: Sequence[Interval], std: float) -> float:
    ends = (interval.ends for interval in intervals)
    return float(sum(ndtr(high / std) - ndtr(low / std) for low, high in ends))


def _window(above: Sequence[Interval], scale: float) -> Array:
    """Points to draw φ'' at: where it stands out, with some margin."""
    ends = [end for interval in above for end in interval.ends if math.isfinite(end)]
    width = max((abs(end) for end in ends), default=0.0) * 1.15
    width = min(width, 8 * scale) or 4 * scale
    return np.linspace(-width, width, 801)
