"""Documents as Markdown: what no text of a report can break."""

import pytest

from hessdiag.show import markdown
from hessdiag.show.document import Bars, Block, Code, Document, Row, Table
from hessdiag.show.wording import text_of
from tests.results import RESULTS

HOSTILE = "# a | b\n\n::error::x ##[error]y <img src=x> [l](j) `c` @team $x$ \x1b[1m"


@pytest.mark.parametrize("name", RESULTS)
def test_tables_and_notes_are_there(name: str):
    document = RESULTS[name]().document()
    text = markdown.render(document)
    tables = [i for b in document.on("markdown") for i in b.items if isinstance(i, Table)]
    for table in tables:
        for cell in (cell for row in table.rows for cell in row.cells):
            if not isinstance(cell, Bars):
                assert markdown.escape(text_of(cell).strip()) in text
    for note in document.notes:
        assert markdown.escape(note) in text


def test_nothing_means_anything():
    table = Table([HOSTILE, HOSTILE], [Row([Code(HOSTILE), HOSTILE])])
    text = markdown.render(Document("k", HOSTILE, [], [Block("b", [table])], notes=[HOSTILE]))
    lines = [line for line in text.splitlines() if line]
    assert len(lines) == 6
    for mark in ("::", "##[", "<img", "](", "`", "@", "$", "\x1b"):
        assert mark not in text.replace("### hessdiag", "")
