"""Documents in a terminal: all of it is there, in the width given, and nothing steers it."""

import dataclasses
import io

import pytest
from rich.console import Console

from hessdiag.show import terminal
from hessdiag.show.document import (
    Axis,
    Block,
    Chart,
    Code,
    Curve,
    Document,
    Map,
    Quantity,
    Row,
    Table,
    Verdict,
)
from hessdiag.show.wording import text_of
from tests.results import RESULTS

HOSTILE = "[red]a[/red] [/] \x1b[31mb\x07\\ \u202e"


def rendered(document: Document, width: int = 120, *, colour: bool = False) -> str:
    system = "256" if colour else None
    console = Console(width=width, highlight=False, file=io.StringIO(), color_system=system)
    console.print(terminal.render(document))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.mark.parametrize("name", RESULTS)
def test_all_of_a_document_is_there(name: str):
    document = RESULTS[name]().document()
    text = " ".join(rendered(document, 300).split())
    told = [document.title, *document.headline, *document.footer, *document.notes]
    for block in document.on("terminal"):
        for item in block.items:
            if isinstance(item, Table):
                told += [item.caption, *map(text_of, item.header)]
                told += [text_of(cell) for row in item.rows for cell in row.cells]
            elif isinstance(item, Map):
                told.append(item.title)
            elif not item.tall:
                told += [curve.label for curve in item.curves]
    for line in told:
        assert " ".join(line.split()) in text


@pytest.mark.parametrize("name", RESULTS)
def test_every_line_fits(name: str):
    text = rendered(RESULTS[name]().document(), 80)
    assert max(map(len, text.splitlines())) <= 80


def hostile() -> Document:
    table = Table([HOSTILE, HOSTILE], [Row([Code(HOSTILE), HOSTILE])], HOSTILE)
    chart = Chart(HOSTILE, Axis(HOSTILE), Axis(HOSTILE), [Curve(HOSTILE, [0, 1], [0, 1])])
    blocks = [Block(HOSTILE, [table, chart]), Block(HOSTILE, [chart, table])]
    lines = [HOSTILE]
    return Document(HOSTILE, HOSTILE, [(HOSTILE, HOSTILE)], blocks, lines, lines, lines)


def test_markup_and_control_characters_stay_what_they_are():
    text = rendered(hostile(), 300)
    assert text.count("[red]a[/red] [/] \\x1b[31mb\\x07\\ \\x202e") >= 15
    assert not any(not c.isprintable() and c != "\n" for c in text)


def test_a_line_break_in_a_name_does_not_break_the_table():
    table = Table(["a"], [Row([Code("one\ntwo")])])
    text = rendered(Document("k", "t", [], [Block("b", [table])]))
    assert "one\\ntwo" in text


def test_a_chart_is_a_row_of_bars_a_curve():
    x = [0.0, 1.0, 2.0, 3.0]
    curves = [Curve("up", x, x), Curve("level", x, [3.0] * 4), Curve("none", x, [float("nan")] * 4)]
    chart = Chart("c", Axis("x", "linear"), Axis("y", "linear"), curves)
    lines = rendered(Document("k", "t", [], [Block("b", [chart])])).splitlines()
    bars = {line[:6].strip(): line[6:] for line in lines if line[:6].strip() in ("up", "level")}
    assert set(bars["level"]) == {"█"}
    assert list(bars["up"].strip()) == sorted(bars["up"].strip(), key=" ▁▂▃▄▅▆▇█".index)
    assert any(line.strip() == "none" for line in lines)


def test_verdicts_are_coloured():
    rows = [Row([Verdict(name)]) for name in ("pass", "fail", "inconclusive")]
    document = Document("k", "t", [], [Block("b", [Table(["verdict"], rows)])])
    text = rendered(document, colour=True)
    assert "\x1b[32mpass" in text
    assert "\x1b[1;31mfail" in text
    assert "\x1b[33minconclusive" in text


def test_what_is_not_sure_is_marked():
    assert text_of(Quantity(1.0, 0.1)) == "1.00 ± 0.10"
    assert text_of(dataclasses.replace(Quantity(1.0, 0.1), sure=False)) == "1.00 ± 0.10 ?"
