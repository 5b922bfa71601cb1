"""Changes of one quantity between two networks, with intervals: paired, independent, bounded."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from hessdiag.comparisons.comparison_result import Change, Difference, Overlap
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate, Samples, estimate_mean
from hessdiag.metrics.norm_ratio import linearised_norm
from hessdiag.spectra.spectrum_result import Part

Array = NDArray[np.float64]


def paired_trace(a: Samples, b: Samples) -> Change[Estimate]:
    """Compare traces by ``vᵀBv − vᵀAv``, probe by probe."""
    difference = estimate_mean(np.subtract(b.quadratic_forms, a.quadratic_forms)).bounded()
    return _sampled(a.trace(), b.trace(), difference)


def paired_norm(a: Samples, b: Samples) -> Change[Estimate]:
    """Compare Frobenius norms by the delta method, probe by probe.

    The norm is the root of the mean of ``‖Av‖²``; the difference is that of both roots to first
    order in each probe's sample, and exact in the mean. Its interval leaves the roots' curvature
    out: it covers the truth at least nine times in ten with 16 probes, 92 to 95 % with 64.
    """
    expanded = [linearised_norm(of.squared_norms) for of in (a, b)]
    difference = estimate_mean(expanded[1] - expanded[0]).bounded()
    return _sampled(a.frobenius_norm(), b.frobenius_norm(), difference)


def independent(a: Estimate, b: Estimate) -> Change[Estimate]:
    """Compare estimates from independent probes.

    The standard error is ``√(s_A² + s_B²)``. The interval joins those of A and B, each with its
    own skewness: ``B − A − √((B − l_B)² + (u_A − A)²)`` and likewise above.

    Source: Zou and Donner (2008), Statist. Med. 27, 1693-1702.
    """
    value = b.value - a.value
    if a.stderr is None or b.stderr is None or a.ci95 is None or b.ci95 is None:
        return Change.of(a, b, Difference(value, None, None))
    below = math.hypot(b.value - b.ci95[0], a.ci95[1] - a.value)
    above = math.hypot(b.ci95[1] - b.value, a.value - a.ci95[0])
    error = math.hypot(a.stderr, b.stderr)
    return Change.of(a, b, Difference(value, error, (value - below, value + above)))


def bounded(a: RitzValue, b: RitzValue) -> Change[RitzValue]:
    """Compare eigenvalues by the intervals that hold them, in old reports by their residuals."""
    value, error = b.value - a.value, a.residual + b.residual
    if a.interval is None or b.interval is None:
        known = a.converged and b.converged
        interval = (value - error, value + error) if known else None
    else:
        interval = b.interval[0] - a.interval[1], b.interval[1] - a.interval[0]
        error = max(value - interval[0], interval[1] - value)
    return Change.of(a, b, Difference(value, error, interval))


def overlap(a: Part, b: Part) -> Overlap | None:
    """Compare the eigenspaces of the largest eigenvalues, whatever vectors span them.

    Returns:
        None without eigenvectors, and where an eigenvalue cannot be told from zero: where A has
        fewer than k that can, the rest of its space is arbitrary.
    """
    if a.eigenvectors is None or b.eigenvectors is None or not a.top:
        return None
    rounding = 10 * torch.finfo(a.eigenvectors.dtype).eps
    for part in (a, b):
        scale = max(abs(ritz.value) for ritz in (*part.top, *part.bottom))
        if any(abs(ritz.value) <= max(ritz.residual, rounding * scale) for ritz in part.top):
            return None
    inner = a.eigenvectors @ b.eigenvectors.to(a.eigenvectors).T
    cosines = torch.linalg.svdvals(inner.double()).clamp(max=1.0)
    return Overlap(
        value=float(cosines.square().mean()),
        cosines=tuple(cosines.tolist()),
        converged=all(ritz.converged for ritz in (*a.top, *b.top)),
    )


def _sampled(a: Estimate, b: Estimate, found: Estimate) -> Change[Estimate]:
    return Change.of(a, b, Difference(found.value, found.stderr, found.ci95))
