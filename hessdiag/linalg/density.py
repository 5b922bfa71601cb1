"""Spectral densities from Lanczos quadratures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hessdiag.codec import Count
from hessdiag.errors import InputError
from hessdiag.linalg.lanczos import Quadrature

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Density:
    """The spectral density ``(1/n) Σ δ(λ − λ_i)``, smoothed by a Gaussian of width ``bandwidth``.

    Attributes:
        grid: ``(g,)`` values of λ, equally spaced.
        values: ``(g,)`` density per unit of λ; integrates to 1.
        stderr: ``(g,)`` standard error of ``values``, that of the quadrature included; None where
            nothing is known of it.
        bandwidth: standard deviation of the Gaussian, in units of λ.
        nodes: ``(m,)`` nodes of the quadrature.
        weights: ``(m,)`` their mean weights; sum to 1.
        num_probes: number of probes behind it.
    """

    grid: Array
    values: Array
    stderr: Array | None
    bandwidth: float
    nodes: Array
    weights: Array
    num_probes: Count

    def __post_init__(self) -> None:
        known = np.isfinite(self.nodes).all() and np.isfinite(self.weights).all()
        if not (len(self.nodes) == len(self.weights) > 0 and known):
            raise InputError("a density has no nodes, or not a weight for each")


def smooth(
    quadrature: Quadrature, *, bandwidth: float | None = None, num_points: int = 512
) -> Density:
    """Smooth a quadrature into a density.

    A row that is uniform on the sphere sees the mean of any function f of the eigenvalues with
    variance ``2/(n + 2) · (mean f² − (mean f)²)``. To that comes the error of the quadrature. On
    eigenvalues within a range of 2h, what polynomials of degree below 2m leave of a Gaussian of
    width σ is about ``exp(−(2mσ/h)²/2)`` of its height: 0.6 % at the default width of 1.6 h/m.

    Args:
        quadrature: nodes and weights of the rows.
        bandwidth: default 0.8 of the range of the nodes over the depth; 1/100 of the range where
            the quadrature is exact.
        num_points: length of the grid.

    Source: Lin, Saad and Yang (2016), SIAM Review 58, 34-65, sec. 3; Ghorbani, Krishnan and Xiao
        (2019), eq. 3.
    """
    nodes, weights, depth = quadrature.nodes, quadrature.weights, quadrature.depth
    low, high = float(nodes[0]), float(nodes[-1])
    if bandwidth is None:
        largest = max(abs(low), abs(high))
        share = 0.8 / depth if depth else 0.01
        bandwidth = max(share * (high - low), 1e-6 * largest) or 1e-30
    grid = np.linspace(low - 5 * bandwidth, high + 5 * bandwidth, num_points)
    height = 1 / (bandwidth * np.sqrt(2 * np.pi))
    kernel = height * np.exp(-0.5 * ((grid[:, None] - nodes) / bandwidth) ** 2)
    curves = weights @ kernel.T
    values, mean_weights, num_rows = curves.mean(axis=0), weights.mean(axis=0), len(weights)
    stderr = None
    if quadrature.size is not None:
        variance = np.maximum(kernel**2 @ mean_weights - values**2, 0.0)
        stderr = np.sqrt(2 / (quadrature.size + 2) / num_rows * variance)
    elif num_rows > 1:
        stderr = np.std(curves, axis=0, ddof=1) / np.sqrt(num_rows)
    if stderr is not None and depth is not None and high > low:
        stderr = np.hypot(stderr, height * np.exp(-8 * (depth * bandwidth / (high - low)) ** 2))
    return Density(
        grid=grid,
        values=values,
        stderr=stderr,
        bandwidth=bandwidth,
        nodes=nodes,
        weights=mean_weights,
        num_probes=num_rows,
    )
