"""Block Lanczos with full reorthogonalisation, thick restart, and intervals that hold.

One run serves two purposes: its projection before the first restart is the Gauss quadrature of the
spectral density, and its extreme Ritz values, refined by thick restarts, are the eigenvalues at
both ends of the spectrum.

Products may be float32; all coefficients are float64. The whole projection Q A Qᵀ is kept (full
reorthogonalisation computes it anyway), so its asymmetry measures the rounding of the products,
and no reported residual is smaller than that. Where asked for, the final Ritz vectors are
multiplied once more in float64, and values and residuals are those of that product.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from torch import Tensor

from hessdiag.linalg.enclosures import CONFIDENCE, outer_bounds, upper_ends
from hessdiag.linalg.krylov import KrylovBasis
from hessdiag.linalg.space import FLAT, Array, Space, normal
from hessdiag.seeds import stream

BOTH = (1, -1)
"""Ends of a spectrum: the largest eigenvalues, and the smallest."""


@dataclass(frozen=True)
class RitzValue:
    """An estimate θ of the k-th eigenvalue from one end of the spectrum.

    Attributes:
        value: θ.
        residual: bound on ‖A y − θ y‖ for its unit Ritz vector y: some eigenvalue of A lies within
            this distance of θ, though not always the k-th.
        converged: the residual is small beside the spectral scale max |θ|; that of the outermost
            eigenvalue at either end beside itself as well.
        interval: holds the k-th eigenvalue: its inner end up to rounding, its outer end with
            probability ``confidence`` over the random start. None in old reports.
        confidence: that the intervals of a run hold, all together.
    """

    value: float
    residual: float
    converged: bool
    interval: tuple[float, float] | None = None
    confidence: float | None = None

    @property
    def error(self) -> float:
        """Bound on the distance from the k-th eigenvalue; in old reports from some eigenvalue."""
        if self.interval is None:
            return self.residual
        return max(self.value - self.interval[0], self.interval[1] - self.value)


@dataclass(frozen=True)
class Quadrature:
    """Gauss quadrature of the spectral measures of the starting rows.

    Attributes:
        nodes: ``(m,)`` Ritz values, ascending.
        weights: ``(b, m)``, one row per starting row, each summing to 1.
        depth: block steps: polynomials of degree ``2 depth − 1`` are integrated exactly. None where
            all functions are.
        size: the dimension n; None where the rows were not Gaussian.
    """

    nodes: Array
    weights: Array
    depth: int | None = None
    size: int | None = None


@dataclass(frozen=True)
class LanczosResult:
    """Outcome of a run.

    Attributes:
        top: largest eigenvalues, the largest first.
        bottom: smallest eigenvalues, the smallest first.
        quadrature: of the starting rows, or None.
        num_steps: block steps taken.
        top_vectors: ``(k, n)`` unit Ritz vectors of ``top``; None where not asked for.
    """

    top: tuple[RitzValue, ...]
    bottom: tuple[RitzValue, ...]
    quadrature: Quadrature | None
    num_steps: int
    top_vectors: Tensor | None = None


def default_tolerance(dtype: torch.dtype) -> float:
    """Residual over spectral scale at which a Ritz value counts as converged: 1e-3 or 1e-10."""
    return 1e-10 if dtype == torch.float64 else 1e-3


def gaussian_rows(
    count: int,
    size: int,
    *,
    seed: int,
    dtype: torch.dtype,
    device: torch.device,
    space: Space = FLAT,
) -> Tensor:
    """Draw a start ``(count, n)`` with entries from N(0, 1); row i depends on seed and i alone.

    Args:
        count: rows.
        size: columns, of a shard those of its own.
        seed: of the draw.
        dtype: of the rows.
        device: where they lie.
        space: in which they lie.
    """
    rows = torch.empty(count, size, dtype=dtype, device=device)
    for index, row in enumerate(rows):
        generator = torch.Generator().manual_seed(stream(seed, "start", index))
        space.fill(row[None], normal, generator)
    return rows


def lanczos(
    start: Tensor,
    *,
    top_k: int,
    ends: Sequence[int] = BOTH,
    depth: int = 0,
    basis_size: int,
    tolerance: float | None = None,
    max_steps: int = 100,
    seed: int = 0,
    with_vectors: bool = False,
    refine: bool = False,
    enough: Callable[[LanczosResult], bool] | None = None,
    space: Space = FLAT,
) -> Generator[Tensor, Tensor, LanczosResult]:
    """Find the ``top_k`` largest and smallest eigenvalues of A, or either, and its quadrature.

    ``A Qᵀ = Qᵀ T + Pᵀ C`` with Q the basis (rows), T its projection and P the block that comes
    next. A Gaussian block of b finds each eigenvalue with its multiplicity, up to b; a block larger
    than ``top_k`` also tells what the next eigenvalue is at most, which the intervals need.

    Cost: one block of b products a step, and one product to refine each eigenvalue;
    ``(basis_size + b) n`` numbers of memory, to refine ``6 top_k n`` in float64 beside them.

    Args:
        start: ``(b, n)`` independent N(0, 1) entries, on which the intervals rest; values and
            residuals do not. Linearly dependent rows are replaced.
        top_k: eigenvalues wanted at each end, ``0 <= top_k <= n``.
        ends: 1 for the largest, −1 for the smallest; what has not been asked for costs nothing.
        depth: block steps of the quadrature; 0 for none.
        basis_size: vectors kept at most; at least ``2 top_k + 2 b`` and ``b depth``, or n.
        tolerance: residual over the spectral scale max |θ| at which a Ritz value counts as
            converged. The outermost at either end must also reach ten times that over its own size;
            where it cannot be told from zero, a tenth of it over the scale.
        max_steps: block steps (passes) at most; what has not converged by then says so.
        seed: for the random vectors that replace exhausted directions.
        with_vectors: whether to return the Ritz vectors of the largest eigenvalues.
        refine: whether to ask for the products of the final Ritz vectors in float64.
        enough: asked of what has converged whether it suffices; where it does not, the tolerance
            becomes a tenth, down to what rounding allows. The intervals hold nevertheless with
            their confidence, as they rest on the start alone, which is drawn once.
        space: in which the vectors lie.

    Returns:
        LanczosResult, the largest and the smallest eigenvalue first in ``top`` and ``bottom``;
        fewer than ``top_k`` of them, and no quadrature, if ``max_steps`` ends the run before.

    Raises:
        NotFinite: a product.

    Source: Wu and Simon (2000), thick restart; Golub and Meurant (2010), ch. 7, quadrature;
        for the intervals :mod:`hessdiag.linalg.enclosures`.
    """
    basis = KrylovBasis(start, basis_size, seed, space)
    tolerance = default_tolerance(start.dtype) if tolerance is None else tolerance
    quadrature = None
    step = 0
    while True:
        products = yield basis.pending
        basis.absorb(products)
        del products
        step += 1
        complete = basis.done >= min(len(ends) * top_k, basis.size)
        last = basis.num_pending == 0 or step >= max_steps
        if not (last or basis.is_full or step == depth or (complete and step > depth)):
            continue  # nothing is asked of the projection yet
        theta, vectors = _diagonalised(basis.projection())
        couplings = np.linalg.norm(basis.coupling(vectors), axis=1)
        if depth and quadrature is None and (step == depth or basis.num_pending == 0):
            weights = (basis.start_weights @ vectors[: basis.start_weights.shape[1]]) ** 2
            exact = basis.done == basis.size
            quadrature = Quadrature(
                theta * basis.unit, weights, None if exact else step, basis.size
            )
        wanted = _outermost(len(theta), top_k, ends)
        judge = _Judge(theta, ends, tolerance, basis.epsilon)
        done = judge.converged(theta, couplings)[wanted]
        sampled = not depth or quadrature is not None
        if last or (sampled and complete and bool(done.all())):
            if not top_k:
                return LanczosResult((), (), quadrature, step)
            pairs = _projected(basis, theta, vectors, wanted)
            if refine:
                pairs = yield from _refined(basis, pairs)
            top, bottom = (
                _end(sign, pairs, _beyond(sign, basis, theta, vectors, top_k), judge, basis)
                if sign in ends
                else ()
                for sign in BOTH
            )
            found = LanczosResult(top[:top_k], bottom[:top_k], quadrature, step)
            if last or enough is None or tolerance < basis.epsilon / 50 or enough(found):
                break
            tolerance /= 10
        if basis.is_full:
            basis.restart(vectors, theta, len(ends) * top_k + 2, ends)
    rows = None
    if with_vectors:
        chosen = pairs.turn[:, ::-1].T[: len(top)]
        rows = space.zeros(len(chosen), basis.empty)
        space.combine(chosen, basis.rows[: basis.done], out=rows)
    return dataclasses.replace(found, top_vectors=rows)


def _diagonalised(matrix: Array) -> tuple[Array, Array]:
    """Compute eigenvalues, ascending, and eigenvectors, in torch's threads.

    NumPy has threads of its own, which spin for 20 ms after each call, where the next product runs.
    """
    theta, vectors = torch.linalg.eigh(torch.from_numpy(matrix))
    return theta.numpy(), vectors.numpy()


def _outermost(count: int, top_k: int, ends: Sequence[int]) -> NDArray[np.intp]:
    """Indices of ``top_k`` of so many ascending values at each of these ends."""
    places = {1: range(max(count - top_k, 0), count), -1: range(min(top_k, count))}
    return np.unique(np.concatenate([np.array(places[sign], dtype=np.intp) for sign in ends]))


@dataclass(frozen=True)
class _Pairs:
    """Ritz pairs of both ends, ascending, in the basis's unit.

    Attributes:
        values: ``(w,)`` Ritz values.
        residuals: ``(w, w)`` inner products of the vectors ``A y − θ y``.
        turn: ``(done, w)`` coefficients of the vectors y.
        rounding: of values and residuals.
        blur: of the run that they come from: how far A may differ from what it has seen.
    """

    values: Array
    residuals: Array
    turn: Array
    rounding: float
    blur: float


def _projected(
    basis: KrylovBasis, theta: Array, vectors: Array, wanted: NDArray[np.intp]
) -> _Pairs:
    """Take the pairs from the projection."""
    coupling, rounding = basis.coupling(vectors[:, wanted]), basis.rounding()
    return _Pairs(theta[wanted], coupling @ coupling.T, vectors[:, wanted], rounding, rounding)


def _refined(basis: KrylovBasis, pairs: _Pairs) -> Generator[Tensor, Tensor, _Pairs]:
    """Project A anew on the span of the pairs, with products in float64.

    What these products say beyond the Lanczos relation is the error of the products before.
    """
    space, rows = basis.space, basis.rows[: basis.done]
    wide = space.zeros(len(pairs.values), basis.empty, torch.float64)
    space.combine(pairs.turn.T, rows, out=wide)
    products = (yield wide) / basis.unit
    form = space.gram(wide, products)
    values, turn = eigh((form + form.T) / 2, space.gram(wide, wide))
    rest = space.combine(turn.T, products)
    space.add(rest, -values[:, None] * turn.T, wide)
    residuals = space.gram(rest, rest)
    space.add(products, -np.diag(pairs.values), wide)
    space.add(products, -basis.coupling(pairs.turn), basis.pending)
    error = float(np.sqrt(space.dots(products, products).max()))
    rounding = float(np.linalg.norm(form - form.T, axis=1).max()) / 2
    rounding += 16 * torch.finfo(torch.float64).eps * float(np.abs(values).max())
    return _Pairs(values, residuals, pairs.turn @ turn, rounding, max(pairs.blur, error))


def _beyond(sign: int, basis: KrylovBasis, theta: Array, vectors: Array, top_k: int) -> Array:
    """Bound A on the complement of the 0, 1, … topmost Ritz vectors, −A for the bottom ones."""
    values, vectors = sign * theta[::-sign], vectors[:, ::-sign]
    if basis.done == basis.size:  # nothing is left but what has been seen
        return np.append(values, -np.inf)[: top_k + 1]
    return outer_bounds(
        values,
        sign * basis.coupling(vectors),
        lambda mu: basis.start_along(sign * mu) @ vectors,
        len(basis.start_coefficients),
        top_k + 1,
        basis.let_go(sign),
    )


def _end(
    sign: int, pairs: _Pairs, beyond: Array, judge: _Judge, basis: KrylovBasis
) -> tuple[RitzValue, ...]:
    """Make the Ritz values of one end, the outermost first."""
    count = len(beyond) - 1
    values = sign * pairs.values[::-sign][:count]
    residuals = pairs.residuals[::-sign, ::-sign][:count, :count]
    inner = values - pairs.rounding
    outer = upper_ends(values, residuals, beyond[: len(values) + 1] + pairs.blur) + pairs.rounding
    bounds = np.hypot(np.sqrt(np.diag(pairs.residuals)), pairs.rounding)
    converged = judge.converged(pairs.values, bounds)
    return tuple(
        RitzValue(
            sign * float(value) * basis.unit,
            float(bound) * basis.unit,
            bool(ok),
            (float(ends[0]), float(ends[1])),
            CONFIDENCE,
        )
        for value, bound, ok, ends in zip(
            values,
            bounds[::-sign],
            converged[::-sign],
            np.sort(sign * basis.unit * np.array([inner, outer]).T, axis=1),
            strict=False,
        )
    )


class _Judge:
    """Tells which Ritz values have small residuals for their size; see ``lanczos``.

    Args:
        theta: all Ritz values, whose largest size is the spectral scale.
        ends: of the spectrum, whose outermost values are judged by their own size as well.
        tolerance: as there.
        epsilon: of the products.
    """

    def __init__(self, theta: Array, ends: Sequence[int], tolerance: float, epsilon: float) -> None:
        self.scale = float(np.abs(theta).max())
        self.outer = [-1 if sign > 0 else 0 for sign in ends]
        self.tolerance, self.epsilon = tolerance, epsilon

    def converged(self, theta: Array, residuals: Array) -> NDArray[Any]:
        """Judge Ritz values, ascending, the outermost of each end among them."""
        done = residuals <= self.tolerance * self.scale
        for end in self.outer:
            size, residual = abs(theta[end]), residuals[end]
            may_be_zero = size <= residual
            least = max(self.tolerance / (10 if may_be_zero else 1000), 32 * self.epsilon)
            done[end] &= residual <= max(10 * self.tolerance * size, least * self.scale)
        return done
