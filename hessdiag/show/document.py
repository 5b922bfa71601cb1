"""What a report is made of, whatever it is shown on: headline, facts, tables, charts, notes.

A kind of report turns its result into one of these; a medium draws all of them. Nothing here holds
markup, and every text may come from a file of any origin: the media escape it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessdiag.errors import InputError

Array = NDArray[np.float64]
Medium = Literal["terminal", "page", "figure", "markdown"]
MEDIA: tuple[Medium, ...] = ("terminal", "page", "figure", "markdown")

TITLES = {"hessian": "Hessian H", "gn": "Gauss-Newton G", "nme": "NME N"}
"""Names of the parts, as people read them; the parts are styles too, each with its own colour."""
SYMBOLS = {name: title[-1] for name, title in TITLES.items()}
STYLES = ("a", "b", "c", "d", "e", "f")
"""Styles of curves that are no parts of the decomposition; each has colour and dashes."""


@dataclass(frozen=True)
class Code:
    """A name that a machine gave: a parameter, a path, a hash."""

    text: str


@dataclass(frozen=True)
class Count:
    """A whole number; None if not known."""

    value: int | None


@dataclass(frozen=True)
class Share:
    """A number between 0 and 1, shown in per cent."""

    value: float | None
    error: float | None = None


@dataclass(frozen=True)
class Quantity:
    """A number and how well it is known.

    Attributes:
        value: None if not known.
        error: standard error, or bound; None if there is none.
        sure: False for an eigenvalue that has not converged.
    """

    value: float | None
    error: float | None = None
    sure: bool = True


@dataclass(frozen=True)
class Interval:
    """Two ends; None if not known."""

    ends: tuple[float, float] | None


@dataclass(frozen=True)
class Verdict:
    """What a gate says: "pass", "fail" or "inconclusive"."""

    name: str


@dataclass(frozen=True)
class Bars:
    """Thin bars from zero, one below the other, beside numbers that say the same.

    Attributes:
        values: style and length of each; None draws none.
        low: value at the left end, at most 0.
        high: value at the right end, at least 0.
    """

    values: Sequence[tuple[str, float | None]]
    low: float
    high: float


@dataclass(frozen=True)
class Named:
    """A heading beside a sample of its colour."""

    text: str
    style: str


Cell = str | Code | Count | Share | Quantity | Interval | Verdict | Bars | Named


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: the first one is its heading.
        style: "quiet" for what adds to the row above, "faint" for what hardly counts, "heading" for
            the name of a group, "best" for what stands out.
    """

    cells: Sequence[Cell]
    style: Literal["", "quiet", "faint", "heading", "best"] = ""


@dataclass(frozen=True)
class Table:
    """Rows under a header.

    Attributes:
        header: headings of the columns.
        rows: one cell a column each, or fewer.
        caption: what it shows, and what ± means.
        words: columns, from the left, that hold words; all others hold numbers.
        folded: whether it is shown on demand only, where that is possible.
    """

    header: Sequence[Cell]
    rows: Sequence[Row]
    caption: str = ""
    words: int = 1
    folded: bool = False

    @property
    def pictures(self) -> set[int]:
        """Columns that hold bars."""
        cells = (pair for row in self.rows for pair in enumerate(row.cells))
        return {place for place, cell in cells if isinstance(cell, Bars)}


@dataclass(frozen=True)
class Axis:
    """A line on which values are placed.

    Attributes:
        label: what it shows.
        scale: "linear", "log", "symlog" (linear up to ``threshold`` from zero, logarithmic beyond),
            or "suitable": decades for values above 0 that differ much, else linear.
        low: value at its beginning; None for what the data need.
        high: value at its end; likewise.
        threshold: of a symmetric-log axis.
        whole: whether its ticks are counts.
    """

    label: str
    scale: Literal["linear", "log", "symlog", "suitable"] = "suitable"
    low: float | None = None
    high: float | None = None
    threshold: float = 1.0
    whole: bool = False


@dataclass(frozen=True)
class Curve:
    """A line through points.

    Attributes:
        label: in the legend.
        x: places along the horizontal axis.
        y: heights; NaN breaks the line.
        style: a part, one of STYLES, "initial" or "trained"; then perhaps "dashed" or "filled".
        errors: half-lengths of error bars, or None for none.
        dots: whether the points are marked.
    """

    label: str
    x: ArrayLike
    y: ArrayLike
    style: str = "a"
    errors: ArrayLike | None = None
    dots: bool = False


@dataclass(frozen=True)
class Marks:
    """Places marked in a row below a chart.

    Attributes:
        label: of the row.
        style: as of a curve.
        values: places on the horizontal axis, and whether each is sure.
    """

    label: str
    style: str
    values: Sequence[tuple[float, bool]]


@dataclass(frozen=True)
class Chart:
    """Curves over two axes.

    Attributes:
        title: what it shows.
        x: horizontal axis.
        y: vertical axis.
        curves: one at least.
        marks: rows of marks below.
        wide: whether it needs the width of a page.
        tall: whether its shape is to be seen in a terminal too, over several lines.
    """

    title: str
    x: Axis
    y: Axis
    curves: Sequence[Curve]
    marks: Sequence[Marks] = ()
    wide: bool = False
    tall: bool = False


@dataclass(frozen=True)
class Map:
    """A table of values over two coordinates, shaded; θ lies at the origin.

    Attributes:
        title: what it shows.
        x: axis of the first coordinate, to the right.
        y: axis of the second, upwards.
        across: ``(a,)`` first coordinates, ascending.
        up: ``(b,)`` second coordinates, ascending.
        values: ``(a, b)``; NaN where not finite.
        among: tables of other maps that are shaded on the same scale, this one with them.
        colours: "loss" or a part.
        contours: whether lines of equal value help.
        peaks: whether a cell that stands for several points shows the largest, else their mean.
        remark: what is written on it.
        centred: whether it is a plane through θ, which is marked at the origin.
    """

    title: str
    x: Axis
    y: Axis
    across: Array
    up: Array
    values: Array
    among: Sequence[Array]
    colours: str
    contours: bool = False
    peaks: bool = False
    remark: str = ""
    centred: bool = True


Item = Table | Chart | Map


@dataclass(frozen=True)
class Block:
    """A part of a report under its heading.

    Attributes:
        heading: in a word or two.
        items: tables and charts.
        media: where it is shown.
        columns: charts side by side in a figure; None for what suits them.
    """

    heading: str
    items: Sequence[Item]
    media: Sequence[Medium] = MEDIA
    columns: int | None = None


@dataclass(frozen=True)
class Document:
    """A report laid out.

    Attributes:
        kind: of report, in a word or two.
        title: what it speaks of.
        facts: the few numbers of its card in a summary, each with its name.
        blocks: its parts in order.
        headline: lines that say the same as the facts where there are no cards.
        footer: lines on checks and cost, which a page tells among the origin.
        notes: what qualifies the numbers.
        origin: where they come from, each with its name.
        verdict: "pass", "fail" or "inconclusive", of a gate.
    """

    kind: str
    title: str
    facts: Sequence[tuple[str, Cell]]
    blocks: Sequence[Block]
    headline: Sequence[str] = ()
    footer: Sequence[str] = ()
    notes: Sequence[str] = ()
    origin: Sequence[tuple[str, Cell]] = field(default=())
    verdict: str | None = None

    def on(self, medium: Medium) -> list[Block]:
        """Give the blocks that a medium shows."""
        return [block for block in self.blocks if medium in block.media]

    def charts(self) -> list[Chart]:
        """Give the charts that a figure draws."""
        return [item for item in self.pictures() if isinstance(item, Chart)]

    def pictures(self) -> list[Chart | Map]:
        """Give all that a figure draws."""
        items = (item for block in self.on("figure") for item in block.items)
        return [item for item in items if not isinstance(item, Table)]


@contextmanager
def drawing(what: str) -> Generator[None]:
    """Refuse numbers of a file that are too large to be reckoned with.

    Raises:
        InputError: an overflow, or what follows from one.
    """
    try:
        with np.errstate(over="raise", divide="raise", invalid="raise"):
            yield
    except ArithmeticError as error:
        raise InputError(f"{what} holds numbers too large to be shown", got=error) from error
