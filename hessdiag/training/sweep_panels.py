"""How the cells of a sweep make curves: what varies along an axis, and what tells curves apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hessdiag.training import methods
from hessdiag.training.sweep_result import SweepCell

_AXES = {"rho": "ρ", "sigma2": "σ²", "kappa": "κ", "beta": "β"}
SYMBOLS = {**_AXES, **{name: option.symbol for name, option in methods.OPTIONS.items()}}
"""What a sweep varies, as people read it; the first ones make the better axis of a plot."""


def told(value: float | str | None) -> str:
    """Write a choice out."""
    return str(value) if value is None or isinstance(value, str) else f"{value:g}"


@dataclass(frozen=True)
class Panel:
    """Cells drawn over one choice that varies.

    Attributes:
        axis: the choice, a key of SYMBOLS.
        curves: by label, the cells that differ in this choice alone, in its order.
    """

    axis: str
    curves: Mapping[str, list[SweepCell]]

    @property
    def values(self) -> list[float]:
        """All values on the axis, in order."""
        found = {cell.choices[self.axis] for cells in self.curves.values() for cell in cells}
        return sorted(found)


def arrange(cells: Sequence[SweepCell]) -> tuple[list[Panel], dict[str, SweepCell]]:
    """Sort cells into panels, and those with nothing that varies under labels of their own.

    A cell is drawn over the first of SYMBOLS that it chooses and that varies in the sweep.
    """
    varied = [
        name
        for name in SYMBOLS
        if len({cell.choices[name] for cell in cells if name in cell.choices}) > 1
    ]
    names_activation = len({cell.activation for cell in cells}) > 1
    panels: dict[str, dict[str, list[SweepCell]]] = {}
    constant: dict[str, SweepCell] = {}
    for cell in cells:
        own = {name: cell.choices[name] for name in varied if name in cell.choices}
        axis = next((name for name, value in own.items() if isinstance(value, float | int)), None)
        others = [f"{SYMBOLS[name]} = {told(own[name])}" for name in own if name != axis]
        activation = cell.activation if names_activation else None
        label = ", ".join(filter(None, (cell.method, activation, *others)))
        if axis is None:
            constant[label] = cell
        else:
            panels.setdefault(axis, {}).setdefault(label, []).append(cell)
    return [
        Panel(axis, {label: _sorted(curve, axis) for label, curve in panels[axis].items()})
        for axis in varied
        if axis in panels
    ], constant


def _sorted(cells: Sequence[SweepCell], axis: str) -> list[SweepCell]:
    return sorted(cells, key=lambda cell: cell.choices[axis])
