"""Documents in a terminal: Rich renderables that no text of a report can style or steer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich import table as rich
from rich.console import Group, RenderableType
from rich.text import Text

from hessdiag.errors import printable
from hessdiag.show import braille
from hessdiag.show.document import Block, Cell, Chart, Document, Map, Row, Table, Verdict, drawing
from hessdiag.show.scales import Scale, scales
from hessdiag.show.shaded import shaded_maps
from hessdiag.show.wording import BARS, calm, one_line, text_of

_WIDTH, _HEIGHT = 60, 7  # of a chart, in characters
_ROWS = {"": None, "quiet": "dim", "faint": "dim", "heading": "bold", "best": "green"}
VERDICTS = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}


def render(document: Document) -> RenderableType:
    """Draw a document, top to bottom, in at most 120 columns."""
    with drawing("the report"):
        return Group(*_parts(document))


def _parts(document: Document) -> list[RenderableType]:
    parts: list[RenderableType] = [_text(line) for line in (document.title, *document.headline)]
    for place, block in enumerate(document.on("terminal")):
        parts += _block(block, first=place == 0)
    if document.footer:
        parts += [Text(), *(_text(line, "dim") for line in document.footer)]
    parts += [_text(f"note: {note}", "yellow") for note in document.notes]
    return parts


def _text(text: str, style: str | None = None) -> Text:
    return Text(calm(printable(text)), style or "")


def _block(block: Block, *, first: bool) -> Iterator[RenderableType]:
    """Draw tables and charts; the first table needs no heading."""
    if not first:
        yield Text()
        yield _text(block.heading, "bold")
    alone = len(block.items) == 1
    yield from shaded_maps([item for item in block.items if isinstance(item, Map)])
    for item in block.items:
        if isinstance(item, Map):
            continue
        if isinstance(item, Table):
            yield _table(item)
            if item.caption:
                yield _text(item.caption, "dim")
        else:
            yield from _chart(item, "" if alone else f"{item.title}: ")


def _table(table: Table) -> rich.Table:
    drawn = rich.Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    pictures = table.pictures
    for place, heading in enumerate(table.header):
        if place < table.words:
            drawn.add_column(_cell(heading), no_wrap=place == 0)
        else:
            justify = "left" if place in pictures else "right"
            drawn.add_column(_cell(heading), justify=justify, no_wrap=True)
    for row in table.rows:
        if row.style == "heading":
            drawn.add_row()
        drawn.add_row(*_cells(row), style=_ROWS[row.style])
    return drawn


def _cells(row: Row) -> Iterator[Text]:
    for place, cell in enumerate(row.cells):
        text = _cell(cell)
        yield Text("  ").append_text(text) if row.style == "quiet" and place == 0 else text


def _cell(cell: Cell) -> Text:
    style = VERDICTS.get(cell.name, "yellow") if isinstance(cell, Verdict) else ""
    return Text(calm(one_line(text_of(cell))), style)


def _chart(chart: Chart, title: str) -> Iterator[Text]:
    """Draw each curve as a row of bars, the highest value full, over one ruler."""
    x, y = scales(chart)
    names = max(len(curve.label) for curve in chart.curves) + 1
    heights = "log height" if y.kind == "log" else f"from {y.low:.3g} to {y.high:.3g}"
    along = {"symlog": "symmetric-log axis, ", "log": "log axis, "}.get(x.kind, "")
    yield _text(f"{title}{along}{heights}", "dim")
    places = np.linspace(0, 1, _WIDTH)
    if chart.tall:
        yield from _tall(chart, x)
        return
    for curve in chart.curves:
        at, height = x.share(curve.x), y.share(curve.y)
        seen = np.isfinite(at) & np.isfinite(height)
        values = np.interp(places, at[seen], height[seen], 0, 0) if seen.any() else 0 * places
        bars = "".join(BARS[int(np.ceil(value * 8))] for value in np.clip(values, 0, 1))
        yield Text(f"{calm(one_line(curve.label)):<{names}}").append(bars, "cyan")
    yield Text(" " * names + _ruler(x), "dim")


def _tall(chart: Chart, x: Scale) -> Iterator[Text]:
    """Draw one curve in dots, its extremes beside it."""
    places, values = np.asarray(chart.curves[0].x, float), np.asarray(chart.curves[0].y, float)
    even = np.interp(np.linspace(x.low, x.high, len(values)), places, values)
    ends = f"{max(even.max(), 0.0):.3g}", f"{min(even.min(), 0.0):.3g}"
    margin = max(map(len, ends)) + 1
    lines = braille.draw(even.tolist(), width=_WIDTH, height=_HEIGHT)
    for place, line in enumerate(lines):
        label = {0: ends[0], len(lines) - 1: ends[1]}.get(place, "")
        yield Text(label.rjust(margin - 1) + " ").append(line, "cyan")
    yield Text(" " * margin + _ruler(x), "dim")


def _ruler(scale: Scale) -> str:
    low, high = f"{scale.low:.2g}", f"{scale.high:.2g}"
    ruler = list(low.ljust(_WIDTH - len(high)) + high)
    zero = round(float(scale.share(0.0)) * (_WIDTH - 1)) if scale.low < 0 < scale.high else 0
    if len(low) < zero < _WIDTH - len(high):
        ruler[zero] = "0"
    return "".join(ruler)
