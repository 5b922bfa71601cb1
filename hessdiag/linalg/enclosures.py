"""Intervals that hold the k-th eigenvalue: from inside by Ritz values, from outside by chance.

Ritz values lie inside: ``θ_k ≤ λ_k`` at the top (Cauchy). Nothing deterministic bounds λ_k from
outside, as an eigenvector orthogonal to the start is never seen. But the start is Gaussian, and a
Gaussian block is close to orthogonal to a given direction only with small, known probability.

Let V hold the k − 1 topmost Ritz vectors, W be A on the complement of V, and x a unit eigenvector
of its largest eigenvalue ``μ ≥ λ_k`` (Courant-Fischer). With the Lanczos relation
``A Qᵀ = Qᵀ T + Pᵀ C`` (P the pending block), x has components ``(μ − T)⁻¹ Cᵀ p`` along Q, where p
are those along P. So the start, which lies in the span of Q, has components along x of norm at most

    m(μ) = max over p of ‖S (μ − T)⁻¹ Cᵀ p‖ / √(‖(μ − T)⁻¹ Cᵀ p‖² + ‖p‖²),

S being the start in terms of Q: for a block of one, the Christoffel function of its spectral
measure, which falls like the square of a Chebyshev polynomial beyond the Ritz values. Where m(μ) is
below what a Gaussian block exceeds with probability 1 − α, μ is no eigenvalue.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from hessdiag.linalg.space import Array

CONFIDENCE = 1 - 1e-6
"""That the outer ends of all intervals of a run hold. Its price is small: they move by its
logarithm."""


def visible(block_size: int, num_directions: int, alpha: float) -> float:
    """Bound the least singular value of a Gaussian matrix from below, but for a chance ``alpha``.

    The matrix is ``(block_size, num_directions)`` of independent N(0, 1) entries. Its least
    singular value is at least ``1/√k`` times the least distance of a column from the span of the
    k − 1 others, and the square of each is χ² with ``b − k + 1`` degrees of freedom.
    """
    b, k = block_size, num_directions
    return math.sqrt(2 * special.gammaincinv((b - k + 1) / 2, alpha / k) / k)


def outer_bounds(
    theta: Array,
    coupling: Array,
    start: Callable[[float], Array],
    block_size: int,
    count: int,
) -> Array:
    """Bound the largest eigenvalue of A on the complement of the 0, 1, … topmost Ritz vectors.

    Args:
        theta: ``(m,)`` Ritz values, descending.
        coupling: ``(m, p)`` components of ``A y − θ y`` along the pending block.
        start: gives the Gaussian start ``(b, m)`` in terms of the Ritz vectors, as it acts on an
            eigenvector of eigenvalue μ.
        block_size: b.
        count: bounds wanted.

    Returns:
        ``(count,)``, all of which hold with probability ``CONFIDENCE``; infinite from the b-th on.
    """
    bounds = np.full(count, math.inf)
    scale = max(float(np.abs(array).max(initial=0.0)) for array in (theta, coupling))
    for k in range(min(count, block_size, len(theta))):
        values, links = theta[k:], coupling[k:]
        least = visible(block_size, k + 1, (1 - CONFIDENCE) / block_size)

        def may_hide(gap: float, k: int = k, least: float = least) -> bool:
            """Whether an eigenvalue could lie so far beyond θ_k, and the start not show it."""
            along = links / (gap + (theta[k] - values))[:, None]  # noqa: B023
            turn, norms, _ = np.linalg.svd(along.T, full_matrices=False)
            seen = start(theta[k] + gap)[:, k:] @ (along @ turn)
            return bool(np.linalg.norm(seen / np.sqrt(1 + norms**2), 2) > least)

        bounds[k] = theta[k]
        low, high = 1e-18 * scale, 1e12 * scale
        if coupling.any() and may_hide(low):
            while high > 1.001 * low:
                middle = math.sqrt(low) * math.sqrt(high)
                low, high = (middle, high) if may_hide(middle) else (low, middle)
            bounds[k] += high
    return bounds


def upper_ends(theta: Array, residuals: Array, bounds: Array) -> Array:
    """Bound the k-th largest eigenvalues by residuals and by what may lie beside the Ritz vectors.

    With R the residuals of the j topmost Ritz vectors and w a bound of A on their complement, no
    more than k eigenvalues exceed μ as soon as ``θ_k + ‖R‖²/(μ − w) ≤ μ`` (inertia of the Schur
    complement). So each j ≥ k bounds λ_k, and so does w for j = k − 1; the least bound holds.

    Args:
        theta: ``(k,)`` Ritz values, descending.
        residuals: ``(k, k)`` inner products of the vectors ``A y − θ y``.
        bounds: ``(k + 1,)``, of A on the complement of the 0, 1, …, k topmost Ritz vectors.
    """
    ends = np.full(len(theta), math.inf)
    for j, bound in enumerate(bounds):
        ends[j:] = np.minimum(ends[j:], bound)  # λ_k ≤ λ_j for k ≥ j
        if j and bound < math.inf:
            norm = math.sqrt(np.linalg.norm(residuals[:j, :j], 2))
            gap = np.clip(theta[:j] - bound, -1e300, 1e300)
            root = np.hypot(gap, 2 * norm)  # δ (gap + δ) = ‖R‖², in the form that does not cancel
            beyond = np.where(gap > 0, 2 * norm**2 / np.maximum(root + gap, 1e-300), root - gap)
            ends[:j] = np.minimum(ends[:j], theta[:j] + np.where(gap > 0, beyond, beyond / 2))
    return ends
