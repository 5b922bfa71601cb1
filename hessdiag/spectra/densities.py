"""Densities of several operators as one chart, on a symmetric-log axis that shows all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from hessdiag.linalg.density import Density
from hessdiag.show.document import Axis, Chart, Curve, Marks

Array = NDArray[np.float64]

_DECADES = 3.0  # shown on each side of zero
_HEIGHT = 8  # decades of density shown
_WIDTH = 0.2  # of the smoothing kernel, in units of the axis: about a tenth of a decade
_POINTS = 600
_MOST_NODES = 20_000  # a smooth curve needs no more, and memory grows with them


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
        nodes, weights = _thinned(density)
        distance = (self.u[:, None] - self.to_axis(nodes)) / _WIDTH
        per_u = np.exp(-0.5 * distance**2) @ weights / (_WIDTH * np.sqrt(2 * np.pi))
        return per_u / np.sqrt(self.grid**2 + self.tau**2)  # du/dλ


def density_chart(
    title: str,
    densities: Sequence[tuple[str, str, Density]],
    marks: Sequence[Marks] = (),
    *,
    together_with: Sequence[Density] = (),
) -> Chart:
    """Draw densities on one symmetric-log axis, with eigenvalues marked below.

    Args:
        title: of the chart.
        densities: label and style of each.
        marks: rows of eigenvalues.
        together_with: densities of other charts, for which the axis is to reach too.
    """
    axis = SymlogAxis((*together_with, *(density for _, _, density in densities)), _POINTS)
    curves = [
        Curve(label, axis.grid, axis.density(density), style) for label, style, density in densities
    ]
    peak = max(float(np.max(curve.y)) for curve in curves)
    ends = float(axis.grid[0]), float(axis.grid[-1])
    label = "eigenvalue λ" + ("; below: the extreme ones, × if not converged" if marks else "")
    return Chart(
        title,
        Axis(label, "symlog", *ends, threshold=axis.tau),
        Axis("density per unit of λ", "log", peak * 10.0**-_HEIGHT, peak),
        curves,
        marks,
        wide=True,
    )


def _thinned(density: Density) -> tuple[Array, Array]:
    """Put nodes together where there are too many."""
    order = np.argsort(density.nodes)
    kept = np.arange(0, len(order), -(-len(order) // _MOST_NODES))
    return density.nodes[order][kept], np.add.reduceat(density.weights[order], kept)
