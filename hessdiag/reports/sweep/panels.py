"""How the cells of a sweep make curves: what varies along an axis, and what tells curves apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hessdiag.reports.sweep import SYMBOLS, told
from hessdiag.training.trials import Cell


@dataclass(frozen=True)
class Panel:
    """Cells drawn over one choice that varies.

    Attributes:
        axis: the choice, a key of SYMBOLS.
        curves: by label, the cells that differ in this choice alone, in its order.
    """

    axis: str
    curves: Mapping[str, Sequence[Cell]]

    @property
    def values(self) -> list[float]:
        """All values on the axis, in order."""
        found = {choices(cell)[self.axis] for cells in self.curves.values() for cell in cells}
        return sorted(found)


def choices(cell: Cell) -> dict[str, Any]:
    """Give all that a cell chooses but its activation."""
    beta = {} if cell.beta is None else {"beta": cell.beta}
    return {**cell.strengths, **beta}


def arrange(cells: Sequence[Cell]) -> tuple[list[Panel], dict[str, Cell]]:
    """Sort cells into panels, and those with nothing that varies under labels of their own.

    A cell is drawn over the first of SYMBOLS that it chooses and that varies in the sweep.
    """
    varied = [
        name
        for name in SYMBOLS
        if len({choices(cell)[name] for cell in cells if name in choices(cell)}) > 1
    ]
    names_activation = len({cell.activation for cell in cells}) > 1
    panels: dict[str, dict[str, list[Cell]]] = {}
    constant: dict[str, Cell] = {}
    for cell in cells:
        own = {name: choices(cell)[name] for name in varied if name in choices(cell)}
        axis = next((name for name, value in own.items() if not isinstance(value, str)), None)
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


def _sorted(cells: Sequence[Cell], axis: str) -> list[Cell]:
    return sorted(cells, key=lambda cell: choices(cell)[axis])
