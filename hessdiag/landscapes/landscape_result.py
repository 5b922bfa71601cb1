"""What a landscape is: values on a grid over a plane through θ, ``hessdiag.landscape/1``."""

from __future__ import annotations

from typing import Self

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from hessdiag.codec import Count, Whole
from hessdiag.errors import InputError
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate
from hessdiag.metadata import Provenance
from hessdiag.nets import activations
from hessdiag.results import LossName, Measured

Array = NDArray[np.float64]


class Point(Struct, frozen=True, omit_defaults=True):
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


class SampledNorm(Struct, frozen=True):
    """A Frobenius norm at every point, from the same probes at all of them.

    Attributes:
        value: ``(resolution, resolution)`` estimates.
        stderr: their standard errors; NaN from a single probe.
    """

    value: Array
    stderr: Array


class Surface(Struct, frozen=True, omit_defaults=True):
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

    @property
    def title(self) -> str:
        """Activation with its β; empty where not known."""
        return activations.label(self.activation, self.beta) if self.activation else ""

    @property
    def has_kinks(self) -> bool:
        """Whether the activation is known to have kinks."""
        name = self.activation
        return name in activations.NAMES and bool(activations.curve(name, self.beta).kinks)

    def tables(self) -> dict[str, Array]:
        """Give what is known at every point, by name."""
        named = {name: getattr(self, name) for name in ("loss", "gn_norm", "nme_norm")}
        for name in ("gn_full", "nme_full"):
            if (sampled := getattr(self, name)) is not None:
                named[name] = sampled.value
        return named


class LandscapePlane(Struct, frozen=True):
    """The plane θ + a u + b v.

    Attributes:
        kind: "weights", "random", "hessian", "gn" or "nme".
        labels: names of u and v.
        eigenvalues: of u and v where they are eigenvectors, else empty.
    """

    kind: str
    labels: tuple[str, str]
    eigenvalues: tuple[RitzValue, ...] = ()


class Axes(Struct, frozen=True):
    """Coordinates along u and along v, ``(resolution,)`` each."""

    a: Array
    b: Array


class LandscapeSettings(Struct, frozen=True, kw_only=True):
    """How the plane was surveyed.

    Attributes:
        resolution: points a side.
        radius: a and b lie in [-radius, radius].
        num_probes: probes of the full norms; 0 without them.
        seed: of all randomness.
        dtype: floating type computed in.
        device: where.
        bn: BatchNorm mode.
        batch_size: examples in a microbatch; None where the caller made the batches.
        params: globs over the parameters, or None.
    """

    resolution: Count
    radius: float
    num_probes: Count
    seed: Whole
    dtype: str
    device: str
    bn: str
    batch_size: Count | None = None
    params: tuple[str, ...] | None = None


class LandscapeCost(Struct, frozen=True):
    """What it took.

    Attributes:
        seconds: wall-clock time.
        num_points: points of all surfaces.
        peak_memory_bytes: allocated on a GPU, resident on a CPU.
    """

    seconds: float
    num_points: Count
    peak_memory_bytes: Count


class Landscape(Measured, frozen=True, kw_only=True, tag="hessdiag.landscape/1"):
    """Surfaces over one plane θ + a u + b v.

    Attributes:
        risk: name of the loss; ``loss`` in JSON.
        settings: how it was surveyed.
        span: the plane; ``plane`` in JSON.
        axes: coordinates of the grid.
        surfaces: one for a network, one for each activation compared.
        cost: time, points, memory.
        notes: what qualifies the numbers, and the reason for every NaN.
    """

    risk: LossName = msgspec.field(name="loss")
    settings: LandscapeSettings
    span: LandscapePlane = msgspec.field(name="plane")
    axes: Axes
    surfaces: tuple[Surface, ...]
    cost: LandscapeCost
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.a), len(self.b))
        for surface in self.surfaces:
            for name, table in surface.tables().items():
                if table.shape != shape or min(shape) < 1:
                    raise InputError(
                        f"the table {name} does not fit the axes", got=table.shape, wanted=shape
                    )
        if not all(np.all(np.diff(side) > 0) for side in (self.a, self.b)):
            raise InputError("the coordinates of an axis do not increase")

    def of(self, provenance: Provenance) -> Self:
        """Name the checkpoint, the network and the data."""
        settings = replace(self.settings, batch_size=provenance.batch_size)
        return replace(super().of(provenance), settings=settings)

    @property
    def a(self) -> Array:
        """Coordinates along u."""
        return self.axes.a

    @property
    def b(self) -> Array:
        """Coordinates along v."""
        return self.axes.b

    @property
    def plane(self) -> str:
        """Kind of the plane."""
        return self.span.kind

    @property
    def labels(self) -> tuple[str, str]:
        """Names of u and v."""
        return self.span.labels

    @property
    def eigenvalues(self) -> tuple[RitzValue, ...]:
        """Of u and v where they are eigenvectors."""
        return self.span.eigenvalues

    @property
    def num_points(self) -> int:
        """Points of all surfaces."""
        return self.cost.num_points


NORMS = {"gn_norm": "Gauss-Newton norm", "nme_norm": "NME norm"}
"""Norms of the parts restricted to the plane, as people read them."""


def qualified(landscape: Landscape) -> Landscape:
    """Add the notes on what is not finite, and on norms that vanish everywhere."""
    found = [*landscape.notes, *(note for surface in landscape.surfaces for note in _gaps(surface))]
    for surface in landscape.surfaces:
        name = f"{surface.activation}: " if surface.activation else ""
        for field, label in NORMS.items():
            if not getattr(surface, field).any():
                kinked = field == "nme_norm" and surface.has_kinks
                why = ", and no point lies on a kink" if kinked else ""
                found.append(f"{name}the {label} is exactly 0 at every point{why}")
    return replace(landscape, notes=tuple(found))


def _gaps(surface: Surface) -> list[str]:
    name = f"{surface.activation}: " if surface.activation else ""
    found = [
        f"{name}the {what} is not finite at {missing} of {table.size} points: null"
        for field, what in {"loss": "loss", **NORMS}.items()
        if (missing := int(np.isnan(table := getattr(surface, field)).sum()))
    ]
    full = surface.gn_full
    if full is not None and bool(np.isnan(full.stderr[np.isfinite(full.value)]).all()):
        found.append("one probe gives no standard error: null")
    return found
