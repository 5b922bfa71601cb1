"""What a landscape is: values on a grid over a plane through θ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hessdiag.curvature.memory import available_bytes
from hessdiag.errors import InputError
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate
from hessdiag.nets import activations

Array = NDArray[np.float64]

_BYTES_PER_VALUE = 256  # in an array, as a Python float in a list, and as a line of JSON


@dataclass(frozen=True)
class Point:
    """What is known of one point of the plane; NaN where it is not finite.

    Attributes:
        loss: L.
        gn_norm: ‖Qᵀ G Q‖_F, Q an orthonormal basis of the plane.
        nme_norm: ‖Qᵀ N Q‖_F.
        gn_full: ‖G‖_F, sampled; None where not asked for.
        nme_full: ‖N‖_F, likewise.
    """

    loss: float
    gn_norm: float
    nme_norm: float
    gn_full: Estimate | None = None
    nme_full: Estimate | None = None


@dataclass(frozen=True)
class SampledNorm:
    """A Frobenius norm at every point, from the same probes at all of them.

    Attributes:
        value: ``(resolution, resolution)`` estimates.
        stderr: their standard errors; NaN from a single probe.
    """

    value: Array
    stderr: Array


@dataclass(frozen=True)
class Surface:
    """One network's values on the grid: entry ``[i, j]`` belongs to θ + a_i u + b_j v.

    Attributes:
        activation: of the network, where known.
        beta: its β, where it takes one.
        origin: the values at θ itself.
        loss: ``(resolution, resolution)`` losses; NaN where not finite, as in all others.
        gn_norm: ‖Qᵀ G Q‖_F.
        nme_norm: ‖Qᵀ N Q‖_F.
        gn_full: ‖G‖_F, or None.
        nme_full: ‖N‖_F, or None.
    """

    activation: str | None
    beta: float | None
    origin: Point
    loss: Array
    gn_norm: Array
    nme_norm: Array
    gn_full: SampledNorm | None = None
    nme_full: SampledNorm | None = None


@dataclass(frozen=True)
class Landscape:
    """Surfaces over one plane θ + a u + b v.

    Attributes:
        surfaces: one for a network, one for each activation compared.
        a: ``(resolution,)`` coordinates along u.
        b: ``(resolution,)`` coordinates along v.
        plane: "weights", "random", "hessian", "gn" or "nme".
        labels: names of u and v.
        eigenvalues: of u and v where they are eigenvectors, else empty.
        radius: a and b lie in [-radius, radius].
        num_points: points of all surfaces.
        num_probes: probes of the full norms; 0 without them.
        num_parameters: dimension n.
        num_samples: examples in the data.
        loss_name: name of the loss.
        seed: of all randomness.
        dtype: floating type computed in.
        device: where.
        bn: BatchNorm mode.
        params: globs over the parameters, or None.
        seconds: wall-clock time.
        peak_memory_bytes: allocated on a GPU, resident on a CPU.
        notes: what qualifies the numbers.
    """

    surfaces: tuple[Surface, ...]
    a: Array
    b: Array
    plane: str
    labels: tuple[str, str]
    eigenvalues: tuple[RitzValue, ...]
    radius: float
    num_points: int
    num_probes: int
    num_parameters: int
    num_samples: int
    loss_name: str
    seed: int
    dtype: str
    device: str
    bn: str
    params: tuple[str, ...] | None
    seconds: float
    peak_memory_bytes: int
    notes: tuple[str, ...]

    @property
    def resolution(self) -> int:
        """Points a side."""
        return len(self.a)


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


def has_kinks(surface: Surface) -> bool:
    """Tell whether the surface's activation is known to have kinks."""
    name = surface.activation
    return name is not None and bool(activations.curve(name, surface.beta).kinks)


def gaps(surface: Surface) -> tuple[str, ...]:
    """Note how many values are not finite, and whatever else is NaN."""
    tables = {
        "loss": surface.loss,
        "Gauss-Newton norm": surface.gn_norm,
        "NME norm": surface.nme_norm,
    }
    name = f"{surface.activation}: " if surface.activation else ""
    found = [
        f"{name}the {what} is not finite at {missing} of {table.size} points: null"
        for what, table in tables.items()
        if (missing := int(np.isnan(table).sum()))
    ]
    full = surface.gn_full
    if full is not None and bool(np.isnan(full.stderr[np.isfinite(full.value)]).all()):
        found.append("one probe gives no standard error: null")
    return tuple(found)


def tabulate(points: Sequence[Point], resolution: int) -> dict[str, Any]:
    """Lay points, row by row, out as the tables of a :class:`Surface`."""

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
