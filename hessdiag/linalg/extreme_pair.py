"""One extreme eigenpair from a vector that is nearly it, in a few products."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from hessdiag.errors import NotFinite

_KEPT = 24  # vectors, each with its product
_LEAST_STEPS = 4  # so that an eigenvalue that has overtaken the one before is seen


@dataclass(frozen=True)
class ExtremePair:
    """An eigenvalue at one end of the spectrum, as far as it was looked for.

    Attributes:
        value: the Rayleigh quotient of :attr:`vector`.
        residual: ``‖A v − θ v‖``, which the distance to the nearest eigenvalue does not exceed.
        vector: v, of unit length, ``(n,)``.
        num_products: that it took.
    """

    value: float
    residual: float
    vector: Tensor
    num_products: int


def extreme_pair(
    start: Tensor, *, largest: bool = True, tolerance: float = 1e-3, max_products: int = 200
) -> Generator[Tensor, Tensor, ExtremePair]:
    """Find the largest eigenvalue of A, or the smallest, by Rayleigh and Ritz.

    The space of ``start`` (k, n) grows by the residuals of its k outermost Ritz pairs, which makes
    it the block Krylov space of ``start`` until it is cut back to the best of it. It yields rows
    and takes their products.

    Cost: k products a step, at least 4 steps; 48 n numbers of memory.

    Args:
        start: ``(k, n)``; what an eigenvector has no part in, it is not found from, so a row that
            is random belongs among them.
        largest: whether the algebraically largest is wanted, else the smallest.
        tolerance: residual over the eigenvalue's size to stop at.
        max_products: to stop at, whatever the residual.

    Raises:
        NotFinite: a product.
    """
    rows, products = start[:0], start[:0]
    new, steps, spent = _orthonormal(start, rows), 0, 0
    while True:
        answer = yield new
        if not bool(torch.isfinite(answer).all()):
            raise NotFinite("a product is not finite", got="NaN or Inf")
        rows, products = torch.cat([rows, new]), torch.cat([products, answer])
        steps, spent = steps + 1, spent + len(new)
        projected = (rows @ products.mT).double()
        theta, turn = torch.linalg.eigh((projected + projected.mT) / 2)
        if largest:
            theta, turn = theta.flip(0), turn.flip(1)
        best = turn[:, : len(start)].mT.to(rows)
        vectors, images = best @ rows, best @ products
        residuals = images - theta[: len(best), None].to(rows) * vectors
        size = float(residuals[0].norm())
        if len(rows) + len(start) > _KEPT:
            best = turn[:, : _KEPT // 2].mT.to(rows)
            rows, products = best @ rows, best @ products
        new = _orthonormal(residuals, rows)
        done = steps >= _LEAST_STEPS and size <= tolerance * abs(float(theta[0]))
        if done or spent >= max_products or not len(new):
            return ExtremePair(float(theta[0]), size, vectors[0], spent)


def _orthonormal(rows: Tensor, others: Tensor) -> Tensor:
    """Make rows orthonormal among themselves and to ``others``; what is nothing new is left out."""
    kept = rows[:0]
    for row in rows:
        norm = row.norm()
        for _ in range(2):  # twice is enough
            row = row - (others @ row) @ others - (kept @ row) @ kept
        if row.norm() > 10 * torch.finfo(row.dtype).eps * norm:
            kept = torch.cat([kept, (row / row.norm())[None]])
    return kept
