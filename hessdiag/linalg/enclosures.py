"""Intervals that hold the k-th eigenvalue: from inside by Ritz values, from outside by chance.

Ritz values lie inside: ``θ_k ≤ λ_k`` at the top (Cauchy). Nothing deterministic bounds λ_k from
outside, as an eigenvector orthogonal to the start is never seen. But the start is Gaussian, and a
Gaussian block is close to orthogonal to a given direction only with small, known probability.

With the Lanczos relation ``A Qᵀ = Qᵀ T + Pᵀ C`` (P the pending block), an eigenvector x of
eigenvalue μ has components ``(μ − T)⁻¹ Cᵀ p`` along Q, where p are those along P. So the start,
which lies in the span of Q, has components along x of norm at most

    m(μ) = max over p of ‖S (μ − T)⁻¹ Cᵀ p‖ / √(‖(μ − T)⁻¹ Cᵀ p‖² + ‖p‖²),

S being the start in terms of Q: for a block of one, the Christoffel function of its spectral
measure, which falls like the square of a Chebyshev polynomial beyond the Ritz values. Where m(μ) is
below what a Gaussian block exceeds with probability 1 − α, μ is no eigenvalue. For λ_k the same
is asked on the complement of the k − 1 topmost Ritz vectors, on which A still reaches λ_k
(Courant-Fischer), and of k directions at once.

Where these bounds leave a gap below θ_j, residuals take over: the error of λ_1, …, λ_j is then that
of their squares (Temple; Lehmann).

Source: Kuczyński and Woźniakowski (1992), SIAM J. Matrix Anal. Appl. 13, 1094-1122; van Dorsselaer,
    Hochstenbach and van der Vorst (2001), SIAM J. Matrix Anal. Appl. 22, 837-852.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from hessdiag.linalg.space import Array

CONFIDENCE = 1 - 1e-6
"""That the outer ends of all intervals of a run hold, at both ends of the spectrum. Its price is
small: they move by its logarithm."""


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
    let_go: float = -math.inf,
) -> Array:
    """Bound λ_1, λ_2, … by what the start would have shown.

    Args:
        theta: ``(m,)`` Ritz values, descending.
        coupling: ``(m, p)`` components of ``A y − θ y`` along the pending block.
        start: gives the Gaussian start ``(b, m)`` in terms of the Ritz vectors, as it acts on an
            eigenvector of eigenvalue μ.
        block_size: b.
        count: bounds wanted.
        let_go: largest Ritz value that a restart let go; ``start`` has poles up to it.

    Returns:
        ``(count,)``, infinite from the b-th on; those of both ends of a spectrum hold together with
        probability ``CONFIDENCE``, at whichever step the run ends, as the start is drawn once.
    """
    bounds = np.full(count, math.inf)
    scale = max(float(np.abs(array).max(initial=0.0)) for array in (theta, coupling))
    for k in range(min(count, block_size, len(theta))):
        values, links, base = theta[k:], coupling[k:], max(float(theta[k]), let_go)
        least = visible(block_size, k + 1, (1 - CONFIDENCE) / (2 * block_size))

        def may_hide(gap: float) -> bool:
            """Whether an eigenvalue could lie so far beyond, and the start not show it."""
            along = links / (gap + (base - values))[:, None]  # noqa: B023
            turn, norms, _ = np.linalg.svd(along.T, full_matrices=False)
            seen = start(base + gap)[:, k:] @ (along @ turn)  # noqa: B023
            return bool(np.linalg.norm(seen / np.sqrt(1 + norms**2), 2) > least)  # noqa: B023

        bounds[k] = base
        low, high = 1e-18 * scale, 1e12 * scale
        if coupling.any() and may_hide(low):
            while high > 1.001 * low:
                middle = math.sqrt(low) * math.sqrt(high)
                low, high = (middle, high) if may_hide(middle) else (low, middle)
            bounds[k] += high
    return bounds


def upper_ends(theta: Array, residuals: Array, bounds: Array) -> Array:
    """Bound the largest eigenvalues λ_k by residuals, where something is known of the next one.

    If ``λ_{j+1} ≤ w < θ_j``, then ``(A − w)⁻¹`` has j positive eigenvalues ``1/(λ_i − w)``, and on
    the vectors ``(A − w) y`` it is ``D`` over ``D² + R``, where ``D = Θ − w`` and R holds the inner
    products of the residuals. So ``λ_i − w`` is at most the i-th largest eigenvalue of
    ``D + D^{-1/2} R D^{-1/2}``; for j = 1 this is Temple's ``λ_1 ≤ θ + ‖r‖²/(θ − w)``.

    Args:
        theta: ``(k,)`` Ritz values, descending.
        residuals: ``(k, k)`` inner products of the vectors ``A y − θ y``.
        bounds: ``(k + 1,)`` bounds w of λ_1, …, λ_{k+1}.

    Source: Lehmann (1949), Z. Angew. Math. Mech. 29, 341-356.
    """
    ends = np.full(len(theta), math.inf)
    for j, bound in enumerate(bounds):
        ends[j:] = np.minimum(ends[j:], bound)
        if j and bound < theta[j - 1]:
            # nothing lies beyond them where w is −∞, and any other w does as well
            gaps = theta[:j] - max(bound, 2 * theta[j - 1] - theta[0] - 1.0)
            turned = np.diag(gaps) + residuals[:j, :j] / np.sqrt(np.outer(gaps, gaps))
            beyond = np.linalg.eigvalsh(turned)[::-1] - gaps
            ends[:j] = np.minimum(ends[:j], theta[:j] + np.maximum(beyond, 0.0))
    return ends
