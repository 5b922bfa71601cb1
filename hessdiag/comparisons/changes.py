"""Changes of one quantity between two networks, with intervals: paired, independent, bounded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate, Samples, estimate_mean
from hessdiag.metrics.norm_ratio import linearised_norm
from hessdiag.spectra.spectrum_result import Part

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """How a quantity differs from A to B.

    Attributes:
        a: the quantity of A.
        b: the quantity of B.
        value: B − A.
        error: its standard error, or for eigenvalues the sum of both bounds; None from one probe.
        interval: its 95 % interval, or for eigenvalues ``value ± error``; None from one probe and
            for eigenvalues that have not converged.
    """

    a: Estimate | RitzValue
    b: Estimate | RitzValue
    value: float
    error: float | None
    interval: tuple[float, float] | None

    @property
    def relative(self) -> float | None:
        """The change over |A|; None where A is zero."""
        return self.value / abs(self.a.value) if self.a.value else None

    @property
    def significant(self) -> bool | None:
        """Whether the interval excludes zero; None where there is none."""
        return None if self.interval is None else not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Overlap:
    """How far the eigenspaces of the k largest eigenvalues agree.

    Attributes:
        value: ``‖U_A U_Bᵀ‖²_F / k``: 1 for equal spaces, k/n on average for random ones.
        cosines: of the k principal angles, the largest first.
        converged: whether all of the eigenvalues have.
    """

    value: float
    cosines: tuple[float, ...]
    converged: bool


def paired_trace(a: Samples, b: Samples) -> Change:
    """Compare traces by ``vᵀBv − vᵀAv``, probe by probe."""
    difference = estimate_mean(np.subtract(b.quadratic_forms, a.quadratic_forms)).bounded()
    return _sampled(a.trace(), b.trace(), difference)


def paired_norm(a: Samples, b: Samples) -> Change:
    """Compare Frobenius norms by the delta method, probe by probe.

    The norm is the root of the mean of ``‖Av‖²``; the difference is that of both roots to first
    order in each probe's sample, and exact in the mean. Its interval leaves the roots' curvature
    out: it covers the truth at least nine times in ten with 16 probes, 92 to 95 % with 64.
    """
    expanded = [linearised_norm(of.squared_norms) for of in (a, b)]
    difference = estimate_mean(expanded[1] - expanded[0]).bounded()
    return _sampled(a.frobenius_norm(), b.frobenius_norm(), difference)


def independent(a: Estimate, b: Estimate) -> Change:
    """Compare estimates from independent probes.

    The standard error is ``√(s_A² + s_B²)``. The interval joins those of A and B, each with its
    own skewness: ``B − A − √((B − l_B)² + (u_A − A)²)`` and likewise above.

    Source: Zou and Donner (2008), Statist. Med. 27, 1693-1702.
    """
    value = b.value - a.value
    if a.stderr is None or b.stderr is None or a.ci95 is None or b.ci95 is None:
        return Change(a, b, value, None, None)
    below = math.hypot(b.value - b.ci95[0], a.ci95[1] - a.value)
    above = math.hypot(b.ci95[1] - b.value, a.value - a.ci95[0])
    return Change(a, b, value, math.hypot(a.stderr, b.stderr), (value - below, value + above))


def bounded(a: RitzValue, b: RitzValue) -> Change:
    """Compare eigenvalues by the intervals that hold them, in old reports by their residuals."""
    value, error = b.value - a.value, a.residual + b.residual
    if a.interval is None or b.interval is None:
        known = a.converged and b.converged
        return Change(a, b, value, error, (value - error, value + error) if known else None)
    interval = b.interval[0] - a.interval[1], b.interval[1] - a.interval[0]
    return Change(a, b, value, max(value - interval[0], interval[1] - value), interval)


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


def _sampled(a: Estimate, b: Estimate, difference: Estimate) -> Change:
    return Change(a, b, difference.value, difference.stderr, difference.ci95)
