"""The Krylov basis of block Lanczos: full reorthogonalisation, thick restart, its own rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hessdiag.errors import NotFinite
from hessdiag.linalg.space import FLAT, Array, Space, normal
from hessdiag.seeds import stream

_DRAWS = 8  # random directions tried in place of an exhausted one before the block shrinks


class KrylovBasis:
    """Orthonormal rows Q, the raw projection M = Q A Qᵀ, and the block that awaits its products.

    Rows ``[0, done)`` have had their products; the ``num_pending`` rows after them have not.
    ``M[i, j]`` is the component of ``A q_i`` along ``q_j``, so M should be symmetric.
    """

    def __init__(self, start: Tensor, basis_size: int, seed: int, space: Space = FLAT) -> None:
        self.space = space
        self.epsilon = torch.finfo(start.dtype).eps
        self.unit = 1.0  # power of two that the products are divided by
        num_rows, self.size = len(start), space.size(start)
        self.block_size = min(num_rows, self.size)
        self.capacity = min(basis_size, self.size)
        num_rows = min(self.capacity + self.block_size, self.size)
        self.rows = space.kept(num_rows, start)
        self.empty = start[:0]  # of the kind that products are
        self.raw = np.zeros((num_rows, num_rows))
        self.done = self.num_pending = 0
        self.last = 0  # first row of the block absorbed last
        self.random = torch.Generator().manual_seed(stream(seed, "replacement"))
        self.lost = 0.0  # asymmetry that restarts have replaced, and couplings dropped as rounding
        self.restarts: list[tuple[Array, Array, Array, Array]] = []
        norms = np.array([self._norm(row) for row in start.split(1)])
        scales = torch.from_numpy(np.where(norms > 0, norms, 1.0))
        unit = start / scales.to(start)[:, None]
        self.start_weights = self._append(unit, scale=1.0)  # unit = weights @ Q
        self.start_coefficients = self.start_weights * norms[:, None]  # start = coefficients @ Q

    @property
    def pending(self) -> Tensor:
        """The block ``(b, n)`` whose products are wanted next."""
        return self.rows[self.done : self.done + self.num_pending].to(self.empty)

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

    def rounding(self) -> float:
        """Estimate what rounding has made of A: asymmetry, dropped couplings, roundoff of T."""
        raw = self.raw[: self.done, : self.done]
        asymmetry = float(np.linalg.norm(raw - raw.T, axis=1).max()) / 2
        roundoff = (8 + 4 * len(self.restarts)) * self.epsilon * float(np.abs(raw).max())
        return self.lost + asymmetry + roundoff

    def start_along(self, mu: float) -> Array:
        """Give ``(b, done)`` coefficients of the start, as it acts on an eigenvector of μ.

        A Ritz vector y that a restart let go, ``A y = θ y + Pᵀ c``, has the component
        ``cᵀ P x/(μ − θ)`` along an eigenvector x, and P is in the basis.
        """
        along = self.start_coefficients
        for kept, gone, theta, coupling in self.restarts:
            gap = mu - theta
            gap[np.abs(gap) < 1e-20] = 1e-20  # in the basis's unit: a copy of an eigenvalue
            through = (along @ gone[: along.shape[1]] / gap) @ coupling
            along = np.hstack([along @ kept[: along.shape[1]], through])
        return np.pad(along, ((0, 0), (0, self.done - along.shape[1])))

    def let_go(self, sign: int) -> float:
        """Tell the outermost Ritz value that a restart let go; of −A for a sign of −1."""
        return max(
            (float((sign * theta).max()) for _, _, theta, _ in self.restarts), default=-np.inf
        )

    def absorb(self, products: Tensor) -> None:
        """Take in ``A q`` for the pending rows; what is new in it becomes the pending block.

        The first products set the unit: from there on, A has a size that float32 can square.
        """
        if not self.done:
            largest = self.space.largest(products)
            if not math.isfinite(largest):
                raise NotFinite("a product is not finite", got="NaN or Inf")
            self.unit = math.ldexp(1.0, math.frexp(largest)[1]) if largest else 1.0
        begin, end = self.done, self.done + self.num_pending
        block = products / self.unit
        self.last, self.done, self.num_pending = begin, end, 0
        self.raw[begin:end, :end] = self._orthogonalise(block, self.rows[:end])
        if not np.isfinite(self.raw[begin:end, :end]).all():
            raise NotFinite("a product is not finite", got="NaN or Inf")
        coefficients = self._append(block, scale=float(np.abs(self.raw[:end, :end]).max()))
        self.raw[begin:end, end : end + self.num_pending] = coefficients

    def restart(
        self, vectors: Array, theta: Array, num_wanted: int, ends: Sequence[int] = (1, -1)
    ) -> None:
        """Keep the outermost Ritz vectors of these ends and the pending block: thick restart."""
        keep = max(num_wanted, (self.done - self.block_size) // 2)
        keep = min(keep, self.capacity - self.block_size)
        low = keep // 2 if len(ends) == 2 else keep * (-1 in ends)
        chosen = np.r_[0:low, len(theta) - (keep - low) : len(theta)]
        coupling = self.coupling(vectors)
        gone = np.setdiff1d(np.arange(len(theta)), chosen)
        let_go = vectors[:, gone], theta[gone], coupling[gone]
        self.restarts.append((vectors[:, chosen], *let_go))
        raw = self.raw[: self.done, : self.done]
        self.lost = max(self.lost, float(np.linalg.norm(raw - raw.T, axis=1).max()) / 2)
        done, end = self.done, self.done + self.num_pending
        turn = np.zeros((keep + end - done, end))
        turn[:keep, :done], turn[keep:, done:] = vectors[:, chosen].T, np.eye(end - done)
        self.space.combine(turn, self.rows[:end], out=self.rows[: len(turn)])
        self.raw[:] = 0.0
        self.raw[:keep, :keep] = np.diag(theta[chosen])
        self.raw[:keep, keep : keep + end - done] = coupling[chosen]
        self.done, self.last = keep, 0

    def _append(self, block: Tensor, scale: float) -> Array:
        """Make orthonormal pending rows of ``block`` (overwritten); returns S, block = S Q_new.

        The block is orthogonal to the basis already. Rows that vanish to rounding are replaced by
        random directions, with coefficient zero: the space is invariant there, and further
        copies of its eigenvalues lie outside it. Where none is left, the block shrinks.
        """
        room = min(len(block), len(self.rows) - self.done)
        coefficients = np.zeros((len(block), room))
        negligible = 10 * self.epsilon * scale
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
                self.lost = max(self.lost, norm)
                if not self._replace(row, basis):
                    continue
            self.rows[self.done + new] = row[0] / self._norm(row)
            self.num_pending += 1
        return coefficients[:, : self.num_pending]

    def _replace(self, row: Tensor, basis: Tensor) -> bool:
        """Fill ``row`` with a random direction orthogonal to the basis, if rounding leaves one."""
        enough = 1e3 * self.epsilon * math.sqrt(self.size)  # of a draw of norm √n
        for _ in range(_DRAWS):
            self.space.fill(row, normal, self.random)
            self._orthogonalise(row, basis)
            left = self._norm(row)
            if left > enough:
                row /= left
                self._orthogonalise(row, basis)
                return True
        return False

    def _norm(self, row: Tensor) -> float:
        return math.sqrt(float(self.space.dots(row, row)[0]))

    def _orthogonalise(self, block: Tensor, rows: Tensor) -> Array:
        """Remove from ``block`` (in place) its components along ``rows``, twice; returns them."""
        components = np.zeros((len(block), len(rows)))
        for _ in range(2 if len(rows) else 0):
            part = self.space.gram(block, rows)
            self.space.add(block, -part, rows)
            components += part
        return components
