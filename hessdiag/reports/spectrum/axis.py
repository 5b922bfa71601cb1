"""The symmetric-log axis on which the densities of all parts are drawn together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from hessdiag.linalg.density import Density

Array = NDArray[np.float64]

_DECADES = 3.0  # shown on each side of zero
_WIDTH = 0.2  # of the smoothing kernel, in units of the axis: about a tenth of a decade


class SymlogAxis:
    """Maps λ to u = asinh(λ/τ): linear within τ of zero, logarithmic beyond.

    Attributes:
        tau: where the two meet, a thousandth of the largest |λ|.
        grid: ``(g,)`` values of λ, equally spaced in u.
    """

    def __init__(self, densities: Iterable[Density], num_points: int) -> None:
        nodes = np.concatenate([density.nodes for density in densities])
        largest = max(float(np.abs(nodes).max()), 1e-30)
        self.tau = largest * 10**-_DECADES
        low, high = self.to_axis(np.array([nodes.min(), nodes.max()]))
        margin = 4 * _WIDTH
        self.u = np.linspace(low - margin, high + margin, num_points)
        self.grid = self.tau * np.sinh(self.u)

    def to_axis(self, value: Array) -> Array:
        """Map λ to u."""
        return np.arcsinh(value / self.tau)

    def density(self, density: Density) -> Array:
        """Evaluate a density per unit of λ on the grid, smoothed evenly along the axis."""
        distance = (self.u[:, None] - self.to_axis(density.nodes)) / _WIDTH
        per_u = np.exp(-0.5 * distance**2) @ density.weights / (_WIDTH * np.sqrt(2 * np.pi))
        return per_u / np.sqrt(self.grid**2 + self.tau**2)  # du/dλ
