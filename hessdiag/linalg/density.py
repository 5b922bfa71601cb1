"""Spectral densities from Lanczos quadratures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hessdiag.linalg.lanczos import Quadrature

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Density:
    """The spectral density ``(1/n) Σ δ(λ − λ_i)``, smoothed by a Gaussian of width ``bandwidth``.

    Attributes:
        grid: ``(g,)`` values of λ, equally spaced.
        values: ``(g,)`` density per unit of λ; integrates to 1.
        stderr: ``(g,)`` standard error of ``values`` over the probes; None from one probe.
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
    num_probes: int


def smooth(
    quadrature: Quadrature, *, bandwidth: float | None = None, num_points: int = 512
) -> Density:
    """Smooth a quadrature into a density.

    Args:
        quadrature: nodes and the probes' weights.
        bandwidth: default 1/100 of the range of the nodes.
        num_points: length of the grid.

    Source: Ghorbani, Krishnan and Xiao (2019), eq. 3; Ubaru, Chen and Saad (2017).
    """
    nodes, weights = quadrature.nodes, quadrature.weights
    low, high = float(nodes[0]), float(nodes[-1])
    if bandwidth is None:
        bandwidth = max((high - low) / 100, 1e-6 * max(abs(low), abs(high)), 1e-30)
    grid = np.linspace(low - 5 * bandwidth, high + 5 * bandwidth, num_points)
    kernel = np.exp(-0.5 * ((grid[:, None] - nodes) / bandwidth) ** 2)
    curves = weights @ kernel.T / (bandwidth * np.sqrt(2 * np.pi))
    num_probes = len(weights)
    stderr = np.std(curves, axis=0, ddof=1) / np.sqrt(num_probes) if num_probes > 1 else None
    return Density(
        grid=grid,
        values=curves.mean(axis=0),
        stderr=stderr,
        bandwidth=bandwidth,
        nodes=nodes,
        weights=weights.mean(axis=0),
        num_probes=num_probes,
    )
