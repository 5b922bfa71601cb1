"""Block Lanczos with full reorthogonalisation, thick restart and residual bounds.

One run serves three purposes: its first product holds the trace samples of the starting probes,
its projection before the first restart is the Gauss quadrature of the spectral density, and its
extreme Ritz values, refined by thick restarts, are the eigenvalues at both ends of the spectrum.

Products may be float32; all coefficients are float64. The whole projection Q A Qᵀ is kept (full
reorthogonalisation computes it anyway), so its asymmetry measures the rounding of the products,
and no reported residual is smaller than that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hessdiag.linalg.space import FLAT, Array, Space
from hessdiag.seeds import stream


@dataclass(frozen=True)
class RitzValue:
    """An eigenvalue estimate θ.

    Attributes:
        value: θ.
        residual: bound on ‖A y − θ y‖ for its unit Ritz vector y; an eigenvalue of A lies within
            this distance of θ.
        converged: the residual is below the tolerance times the spectral scale max |θ|.
    """

    value: float
    residual: float
    converged: bool


@dataclass(frozen=True)
class Quadrature:
    """Gauss quadrature of the spectral measures of the starting probes.

    Attributes:
        nodes: ``(m,)`` Ritz values, ascending.
        weights: ``(b, m)``, one row per probe, each summing to 1.
    """

    nodes: Array
    weights: Array


@dataclass(frozen=True)
class LanczosResult:
    """Outcome of a run.

    Attributes:
        top: largest eigenvalues, the largest first.
        bottom: smallest eigenvalues, the smallest first.
        quadrature: of the starting probes, or None.
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


def lanczos(
    start: Tensor,
    *,
    top_k: int,
    depth: int = 0,
    basis_size: int,
    tolerance: float | None = None,
    max_steps: int = 100,
    seed: int = 0,
    watch: Callable[[Tensor, Tensor], None] | None = None,
    with_vectors: bool = False,
    space: Space = FLAT,
) -> Generator[Tensor, Tensor, LanczosResult]:
    """Find the ``top_k`` largest and ``top_k`` smallest eigenvalues of A, and its quadrature.

    ``A Qᵀ = Qᵀ T + Rᵀ`` with Q the basis (rows) and T its projection; the block of ``start`` finds
    every eigenvalue with its multiplicity up to the block size.

    Cost: one block of b products a step; ``(basis_size + b) n`` numbers of memory.

    Args:
        start: ``(b, n)`` starting block, any scale; linearly dependent rows are replaced.
        top_k: eigenvalues wanted at each end, ``0 <= top_k <= n``.
        depth: block steps of the quadrature; 0 for none.
        basis_size: vectors kept at most; at least ``2 top_k + 2 b`` and ``b depth``, or n.
        tolerance: residual over spectral scale at which a Ritz value counts as converged.
        max_steps: block steps (passes) at most; what has not converged by then says so.
        seed: for the random vectors that replace exhausted directions.
        watch: called with ``start`` and its products ``A start`` after the first step.
        with_vectors: whether to return the Ritz vectors of the largest eigenvalues.
        space: in which the vectors lie.

    Returns:
        LanczosResult, the largest and the smallest eigenvalue first in ``top`` and ``bottom``;
        fewer than ``top_k`` of them, and no quadrature, if ``max_steps`` ends the run before.

    Source: Wu and Simon (2000), thick restart; Golub and Meurant (2010), ch. 7, quadrature.
    """
    basis = _Basis(start, basis_size, seed, space)
    tolerance = default_tolerance(start.dtype) if tolerance is None else tolerance
    quadrature = None
    step = 0
    while True:
        products = yield basis.pending
        if step == 0 and watch is not None:
            watch(start, space.combine(basis.start_coefficients, products))
        basis.absorb(products)
        del products
        step += 1
        theta, vectors = np.linalg.eigh(basis.projection())
        residuals = basis.residuals(vectors)
        exhausted = basis.num_pending == 0
        if depth and quadrature is None and (step == depth or exhausted):
            weights = (basis.start_weights @ vectors[: len(basis.start_weights)]) ** 2
            quadrature = Quadrature(theta, weights)
        scale = max(float(np.abs(theta).max()), np.finfo(np.float64).tiny)
        done = residuals <= tolerance * scale
        enough = len(theta) >= min(2 * top_k, basis.size)
        wanted = np.r_[0 : min(top_k, len(theta)), max(len(theta) - top_k, 0) : len(theta)]
        sampled = not depth or quadrature is not None
        if exhausted or step >= max_steps or (sampled and enough and bool(done[wanted].all())):
            break
        if basis.is_full:
            basis.restart(vectors, theta, 2 * top_k)
    ritz = [
        RitzValue(float(value), float(residual), bool(ok))
        for value, residual, ok in zip(theta, residuals, done, strict=True)
    ]
    top = tuple(reversed(ritz[-top_k:])) if top_k else ()
    chosen = vectors[:, ::-1][:, : len(top)] if with_vectors else None
    top_vectors = None if chosen is None else basis.combine(chosen)
    return LanczosResult(top, tuple(ritz[:top_k]), quadrature, step, top_vectors)


class _Basis:
    """Orthonormal rows Q, the raw projection M = Q A Qᵀ, and the block that awaits its products.

    Rows ``[0, done)`` have had their products; the ``num_pending`` rows after them have not.
    ``M[i, j]`` is the component of ``A q_i`` along ``q_j``, so M should be symmetric.
    """

    def __init__(self, start: Tensor, basis_size: int, seed: int, space: Space = FLAT) -> None:
        self.space = space
        num_rows, self.size = len(start), space.size(start)
        self.block_size = min(num_rows, self.size)
        self.capacity = min(basis_size, self.size)
        num_rows = min(self.capacity + self.block_size, self.size)
        self.rows = space.zeros(num_rows, start)
        self.raw = np.zeros((num_rows, num_rows))
        self.done = self.num_pending = 0
        self.last = 0  # first row of the block absorbed last
        self.random = torch.Generator().manual_seed(stream(seed, "replacement"))
        self.rounding = 0.0  # of the projections that restarts have replaced
        norms = np.array([self._norm(row) for row in start.split(1)])
        scales = torch.from_numpy(np.where(norms > 0, norms, 1.0))
        unit = start / scales.to(start)[:, None]
        self.start_weights = self._append(unit, scale=1.0)  # unit = weights @ Q
        self.start_coefficients = self.start_weights * norms[:, None]  # start = coefficients @ Q

    @property
    def pending(self) -> Tensor:
        """The block ``(b, n)`` whose products are wanted next."""
        return self.rows[self.done : self.done + self.num_pending]

    @property
    def is_full(self) -> bool:
        """Whether there is no room to absorb the pending block."""
        return self.capacity < self.size and self.done + self.num_pending > self.capacity

    def projection(self) -> Array:
        """T = Q A Qᵀ over the absorbed rows, symmetrised."""
        raw = self.raw[: self.done, : self.done]
        return (raw + raw.T) / 2

    def coupling(self, vectors: Array) -> Array:
        """Components of ``A y - θ y`` along the pending block, for Ritz vectors (columns)."""
        pending = slice(self.done, self.done + self.num_pending)
        return vectors[self.last :].T @ self.raw[self.last : self.done, pending]

    def residuals(self, vectors: Array) -> Array:
        """Bound ‖A y − θ y‖ for each Ritz vector: coupling to the pending block plus rounding."""
        rounding = self.rounding + self._asymmetry()
        return np.hypot(np.linalg.norm(self.coupling(vectors), axis=1), rounding)

    def combine(self, vectors: Array) -> Tensor:
        """Rows ``(k, n)`` that coefficient columns ``(done, k)`` give."""
        return self.space.combine(vectors.T, self.rows[: self.done])

    def _asymmetry(self) -> float:
        raw = self.raw[: self.done, : self.done]
        return float(np.linalg.norm(raw - raw.T, axis=1).max()) / 2

    def absorb(self, products: Tensor) -> None:
        """Take in ``A q`` for the pending rows; what is new in it becomes the pending block."""
        begin, end = self.done, self.done + self.num_pending
        block = products.clone()
        self.last, self.done, self.num_pending = begin, end, 0
        self.raw[begin:end, :end] = self._orthogonalise(block, self.rows[:end])
        coefficients = self._append(block, scale=float(np.abs(self.raw[:end, :end]).max()))
        self.raw[begin:end, end : end + self.num_pending] = coefficients

    def restart(self, vectors: Array, theta: Array, num_wanted: int) -> None:
        """Keep the outermost Ritz vectors and the pending block: thick restart."""
        keep = max(num_wanted, (self.done - self.block_size) // 2)
        keep = min(keep, self.capacity - self.block_size)
        chosen = np.r_[0 : keep // 2, len(theta) - (keep - keep // 2) : len(theta)]
        coupling = self.coupling(vectors[:, chosen])
        self.rounding = max(self.rounding, self._asymmetry())
        done, end = self.done, self.done + self.num_pending
        turn = np.zeros((keep + end - done, end))
        turn[:keep, :done], turn[keep:, done:] = vectors[:, chosen].T, np.eye(end - done)
        self.space.combine(turn, self.rows[:end], out=self.rows[: len(turn)])
        self.raw[:] = 0.0
        self.raw[:keep, :keep] = np.diag(theta[chosen])
        self.raw[:keep, keep : keep + end - done] = coupling
        self.done, self.last = keep, 0

    def _append(self, block: Tensor, scale: float) -> Array:
        """Make orthonormal pending rows of ``block`` (overwritten); returns S, block = S Q_new.

        The block is orthogonal to the basis already. Rows that vanish to rounding are replaced by
        random directions, with coefficient zero: the space is invariant there, and further
        copies of its eigenvalues lie outside it.
        """
        room = min(len(block), len(self.rows) - self.done)
        coefficients = np.zeros((len(block), room))
        negligible = 10 * torch.finfo(block.dtype).eps * scale
        for i, row in enumerate(block.split(1)):
            if (new := self.num_pending) == room:
                coefficients[i] = self._orthogonalise(row, self.pending)
                continue
            before = self._norm(row)
            coefficients[i, :new] = self._orthogonalise(row, self.pending)
            norm = self._norm(row)
            basis = self.rows[: self.done + new]
            if norm > negligible and (norm < before / 2 or norm < 100 * negligible):
                row /= norm  # much cancelled, so what is left must be cleaned of the basis again
                self._orthogonalise(row, basis)
                norm *= (left := self._norm(row))
                row *= norm / max(left, torch.finfo(row.dtype).tiny)
            if norm > negligible:
                coefficients[i, new] = norm
            else:
                self._replace(row, basis)
            self.rows[self.done + new] = row[0] / self._norm(row)
            self.num_pending += 1
        return coefficients

    def _replace(self, row: Tensor, basis: Tensor) -> None:
        """Fill ``row`` with a random direction orthogonal to the basis."""
        enough = 1e3 * torch.finfo(row.dtype).eps * self.size**0.5
        left = 0.0
        while left <= enough:  # of a draw of norm √n; less would be rounding
            self.space.fill_normal(row, self.random)
            self._orthogonalise(row, basis)
            left = self._norm(row)
        row /= left
        self._orthogonalise(row, basis)

    def _norm(self, row: Tensor) -> float:
        return math.sqrt(float(self.space.gram(row, row)[0, 0]))

    def _orthogonalise(self, block: Tensor, rows: Tensor) -> Array:
        """Remove from ``block`` (in place) its components along ``rows``, twice; returns them."""
        components = np.zeros((len(block), len(rows)))
        for _ in range(2 if len(rows) else 0):
            part = self.space.gram(block, rows)
            self.space.add(block, -part, rows)
            components += part
        return components
