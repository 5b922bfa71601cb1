"""Maps drawn in a terminal, in five shades."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from rich.text import Text

from hessdiag.show.document import Array, Map
from hessdiag.show.shading import Shading
from hessdiag.show.wording import calm, one_line

SHADES = " ░▒▓█"
_WIDTH, _HEIGHT = 36, 16  # of a map, in characters
_GAP = "   "
_SCALES = {"linear": "", "log": ", log", "root": ", root"}


def shaded_maps(maps: Sequence[Map]) -> Iterator[Text]:
    """Draw maps two by two, each under its title and its range."""
    for first in range(0, len(maps), 2):
        pair = maps[first : first + 2]
        columns: list[list[str]] = []
        for shown in pair:
            scale = Shading.of(shown.values)
            heading = f"{calm(one_line(shown.title))}, {_reach(shown.values, scale)}"
            frame = "─" * _WIDTH
            rows = draw(_cells(shown), scale)
            lines = [f"┌{frame}┐", *(f"│{row}│" for row in rows), f"└{frame}┘"]
            columns.append([f" {heading:<{_WIDTH + 1}}", *lines])
        lines = [_GAP.join(parts).rstrip() for parts in zip(*columns, strict=True)]
        yield Text(lines[0], "dim")
        yield Text("\n".join(lines[1:]), "cyan")


def draw(cells: Array, scale: Shading) -> list[str]:
    """Shade cells ``(width, height)`` as lines, the first coordinate to the right, the second up.

    Any value above the scale's low end gets the faintest shade at least; NaN is a question mark.
    """
    level = np.ceil(scale.shade(cells) * (len(SHADES) - 1) - 1e-9).astype(int)
    return [
        "".join("?" if math.isnan(cells[i, j]) else SHADES[level[i, j]] for i in range(len(cells)))
        for j in reversed(range(cells.shape[1]))
    ]


def _reach(table: Array, scale: Shading) -> str:
    if np.isnan(table).all():
        return "nowhere finite"
    if scale.low == scale.high:
        return f"{scale.low:.3g} everywhere"
    return f"{scale.low:.3g} to {scale.high:.3g}{_SCALES[scale.kind]}"


def _cells(shown: Map) -> Array:
    """Summarise a table on the cells of a map; cells of a coarse table repeat its values."""
    summary = np.nanmax if shown.peaks else np.nanmean
    cells = np.full((_WIDTH, _HEIGHT), np.nan)
    for i, rows in enumerate(_shares(len(shown.across), _WIDTH)):
        for j, columns in enumerate(_shares(len(shown.up), _HEIGHT)):
            block = shown.values[rows, columns]
            if not np.isnan(block).all():
                cells[i, j] = summary(block)
    return cells


def _shares(num_points: int, num_cells: int) -> list[slice]:
    """Cut points into as many runs as there are cells, each of one point at least."""
    edges = [num_points * k // num_cells for k in range(num_cells + 1)]
    return [slice(low, max(high, low + 1)) for low, high in pairwise(edges)]
