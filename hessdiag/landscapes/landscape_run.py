"""The loss and the norms of G and N over a plane through θ."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.heads import OutputSpec
from hessdiag.curvature.kernels import undisturbed
from hessdiag.curvature.memory import peak_bytes
from hessdiag.errors import InputError, NotFinite, unknown
from hessdiag.landscapes.landscape_result import (
    Axes,
    Landscape,
    LandscapeCost,
    LandscapePlane,
    LandscapeSettings,
    Point,
    Surface,
    qualified,
)
from hessdiag.landscapes.planes import (
    KINDS,
    Plane,
    eigenvector_plane,
    random_plane,
    weight_plane,
)
from hessdiag.landscapes.surfaces import make_axis, tabulate
from hessdiag.linalg.driver import Request
from hessdiag.linalg.trace import Probes, TraceSamples
from hessdiag.losses.loss_spec import LossSpec
from hessdiag.progress import Progress, Watch
from hessdiag.results import CheckpointOrigin, DataOrigin, LossName
from hessdiag.settings import MOST_PROBES

_PROBE_BUDGET = 1 << 30  # bytes of probes and their products asked for in one pass
_PARTS = ("gn", "nme")


@undisturbed()
def landscape(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    plane: str | Plane | None = None,
    weights: Sequence[str] | None = None,
    resolution: int = 25,
    radius: float = 1.0,
    num_probes: int = 0,
    loss: LossSpec | None = None,
    output: OutputSpec | None = None,
    params: str | Sequence[str] | None = None,
    bn: str = "eval",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    unchecked: bool = False,
    seed: int = 0,
    on_point: Watch | None = None,
) -> Landscape:
    """Survey L, ‖Qᵀ G Q‖_F and ‖Qᵀ N Q‖_F at θ + a u + b v, a and b in [-radius, radius].

    Q is an orthonormal basis of the plane, so these norms are those of G and N restricted to it,
    exact from two products. With probes also the norms of all of G and N are estimated, with the
    same probes at every point, so that the map of an estimate is as smooth as that of its truth.

    Cost: for each of resolution² points one gradient and 2 + ``num_probes`` vectors with both
    parts, in one pass over the data; more passes if the probes exceed 1 GiB.

    Args:
        model: any ``nn.Module`` from a batch to one tensor; nothing of it is changed.
        batches: any iterable of (x, y), the same examples each time.
        plane: "random" for filter-normalised directions; "hessian", "gn" or "nme" for the top two
            eigenvectors of that part; a :class:`Plane` of one's own. None for "random", or for
            the plane of ``weights``.
        weights: two weights that span the plane, such as ``("fc1.weight[0,1]", "fc1.bias[2]")``.
        resolution: points a side, at least 2; with an odd number θ is one of them.
        radius: of the plane, in units of u and v.
        num_probes: Rademacher probes of the full norms; 0 for none.
        loss: a name, a torch loss or any loss(z, y): :func:`hessdiag.losses.loss_spec.resolve`;
            None for the network's own: cross-entropy, but for heads of Hugging Face that say else.
        output: which of the network's outputs, where it returns several: a name, an index or a
            function of what it returns.
        params: glob or globs over parameter names; None for all trainable ones.
        bn: "eval" or "batch".
        dtype: torch.float32 or torch.float64; None for that of the parameters.
        device: None for that of the parameters.
        unchecked: go on where the network's derivatives are found to be wrong.
        seed: of directions and probes.
        on_point: called after each point with those done and those to do.

    Returns:
        Landscape; points where a value is not finite hold NaN and are counted in its notes.

    Raises:
        InputError: bad settings, plane, data or network; values not finite at θ itself.

    Source: Dauphin, Agarwala and Mobahi (2024), fig. 1; Li et al. (2018), sec. 4.
    """
    began = time.perf_counter()
    axis = make_axis(resolution, radius, num_values=7 if num_probes else 3)
    if not 0 <= num_probes <= MOST_PROBES:
        wanted = f"0 to {MOST_PROBES:,}"
        raise InputError("`num_probes` is out of range", got=num_probes, wanted=wanted)
    if plane is not None and weights is not None:
        raise InputError(
            "two weights span a plane of their own",
            got=f"both weights and plane {plane if isinstance(plane, str) else plane.kind}",
            wanted="one of the two",
        )
    if plane is not None and not isinstance(plane, Plane) and plane not in KINDS:
        raise unknown("plane", str(plane), KINDS, hint="or a hessdiag.Plane")
    decomposition = Decomposition(
        model,
        batches,
        loss,
        output=output,
        params=params,
        bn=bn,
        dtype=dtype,
        device=device,
        unchecked=unchecked,
    )
    decomposition.check_whole("a landscape")
    chosen = _choose(decomposition, plane, weights, seed)
    survey = _Survey(decomposition, chosen, num_probes, seed)
    origin = survey.evaluate(decomposition)  # what is wrong with network or data shows here,
    decomposition.answer([])  # or in a second pass over the same
    points: list[Point] = []
    for a in axis:
        for b in axis:
            points.append(survey.point(a, b) if a or b else origin)
            if on_point is not None:
                on_point(Progress(len(points), resolution**2, f"point {len(points)}"))
    surface = Surface(None, None, origin, **tabulate(points, resolution))
    risk = decomposition.risk
    found = Landscape(
        checkpoint=CheckpointOrigin(num_parameters=decomposition.num_parameters),
        data=DataOrigin(num_samples=decomposition.gradient().num_examples),
        risk=LossName(risk.loss.name),
        settings=LandscapeSettings(
            resolution=resolution,
            radius=float(radius),
            num_probes=num_probes,
            seed=seed,
            **vars(risk.circumstances),
        ),
        span=LandscapePlane(chosen.kind, chosen.labels, chosen.eigenvalues),
        axes=Axes(axis, axis),
        surfaces=(surface,),
        cost=LandscapeCost(time.perf_counter() - began, len(points), peak_bytes(risk.device)),
        notes=chosen.notes,
    )
    return qualified(found)


def _choose(
    decomposition: Decomposition,
    plane: str | Plane | None,
    weights: Sequence[str] | None,
    seed: int,
) -> Plane:
    if weights is not None:
        return weight_plane(decomposition, weights)
    if isinstance(plane, Plane):
        risk, size = decomposition.risk, decomposition.num_parameters
        for label, row in zip(plane.labels, (plane.first, plane.second), strict=True):
            if row.shape != (size,):
                raise InputError(
                    f"the direction {label} does not fit the parameters",
                    got=f"shape {tuple(row.shape)}",
                    wanted=f"({size},)",
                )
        rows = (row.to(risk.device, risk.dtype) for row in (plane.first, plane.second))
        return dataclasses.replace(plane, **dict(zip(("first", "second"), rows, strict=True)))
    if plane is None or plane == "random":
        return random_plane(decomposition, seed=seed)
    return eigenvector_plane(decomposition, plane, seed=seed)


class _Survey:
    """Evaluates points of one plane."""

    def __init__(
        self, decomposition: Decomposition, plane: Plane, num_probes: int, seed: int
    ) -> None:
        self.decomposition, self.plane, self.num_probes = decomposition, plane, num_probes
        self.basis = plane.basis()
        risk, size = decomposition.risk, decomposition.num_parameters
        self._probes = Probes(size, seed=seed, dtype=risk.dtype, device=risk.device)
        self._chunk = max(1, _PROBE_BUDGET // (3 * size * risk.dtype.itemsize))
        self._kept = self._probes.rows(0, num_probes) if num_probes <= self._chunk else None

    def point(self, a: float, b: float) -> Point:
        """Evaluate at θ + a u + b v, with NaN for what is not finite there."""
        moved = self.decomposition.displaced(self.plane.step(a, b))
        try:
            return self.evaluate(moved)
        except NotFinite:
            with suppress(NotFinite):  # where only the products fail, the loss is kept
                return Point(moved.gradient().loss, math.nan, math.nan)
            return Point(math.nan, math.nan, math.nan)

    def evaluate(self, moved: Decomposition) -> Point:
        """Evaluate at the θ of ``moved``.

        Raises:
            NotFinite: the loss, a gradient or a product.
        """
        norms: dict[str, float] = {}
        samples = {part: TraceSamples() for part in _PARTS}
        for blocks in self._passes():
            answers = moved.answer([Request(rows, set(_PARTS)) for rows in blocks])
            for rows, answer in zip(blocks, answers, strict=True):
                for part in _PARTS:
                    if rows is self.basis:
                        norms[part] = _restricted_norm(rows, answer[part])
                    else:
                        samples[part].add(rows, answer[part])
        with np.errstate(over="ignore", invalid="ignore"):  # beyond the largest number
            full = {
                part: found.frobenius_norm() if self.num_probes else None
                for part, found in samples.items()
            }
        loss = moved.gradient().loss
        return Point(loss, norms["gn"], norms["nme"], full["gn"], full["nme"])

    def _passes(self) -> Iterator[list[Tensor]]:
        """Yield the blocks of vectors of each pass: the basis, and with it the first probes."""
        blocks = [self.basis]
        for start in range(0, self.num_probes, self._chunk):
            stop = min(start + self._chunk, self.num_probes)
            blocks.append(self._probes.rows(start, stop) if self._kept is None else self._kept)
            yield blocks
            blocks = []
        if blocks:
            yield blocks


def _restricted_norm(basis: Tensor, products: Tensor) -> float:
    """Compute ‖Qᵀ A Q‖_F from Qᵀ and (A Q)ᵀ, both ``(2, n)``, added up in float64."""
    entries = [[float((q * row).sum(dtype=torch.float64)) for q in basis] for row in products]
    return math.hypot(*entries[0], *entries[1])
