"""Curves drawn in a terminal, two by four dots to a character."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BLANK = 0x2800  # the braille cell without dots
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # by column, from the top


def draw(values: Sequence[float], *, width: int, height: int) -> list[str]:
    """Draw equally spaced values as a curve with its zero line.

    Args:
        values: finite.
        width: characters in a line.
        height: lines.

    Returns:
        Lines from the top.
    """
    columns = 2 * width
    y = np.interp(np.linspace(0, 1, columns), np.linspace(0, 1, len(values)), values)
    low, high = min(float(y.min()), 0.0), max(float(y.max()), 0.0)
    span = (high - low) or 1.0
    rows = np.rint((high - y) / span * (4 * height - 1)).astype(int)
    zero = round(high / span * (4 * height - 1))
    cells = np.zeros((height, width), dtype=int)

    def mark(column: int, row: int) -> None:
        cells[row // 4, column // 2] |= _DOTS[column % 2][row % 4]

    for column in range(0, columns, 4):
        mark(column, zero)
    for column, row in enumerate(rows):
        before = rows[max(column - 1, 0)]
        for between in range(min(row, before + 1), max(row, before - 1) + 1):  # no gaps
            mark(column, int(between))
    return ["".join(chr(_BLANK + cell) for cell in line) for line in cells]
