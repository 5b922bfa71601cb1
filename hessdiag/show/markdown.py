"""Documents as Markdown, for the summary of a step in CI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hessdiag.show.document import Cell, Document, Table
from hessdiag.show.wording import one_line, text_of

_MEANINGFUL = frozenset("\\`*_{}[]<>()#+!|&~@:$\"'")


def render(document: Document) -> str:
    """Write title, verdict, tables and notes; charts are left out."""
    verdict = f": {document.verdict}" if document.verdict else ""
    lines = [f"### hessdiag {document.kind.lower()}{verdict}", "", escape(document.title), ""]
    for block in document.on("markdown"):
        tables = [item for item in block.items if isinstance(item, Table)]
        for table in tables:
            lines += [*_table(table), ""]
    lines += [f"- {escape(note)}" for note in document.notes]
    return "\n".join(lines) + "\n\n"


def escape(text: str) -> str:
    """Take away the meaning that a text has as Markdown or HTML."""
    return "".join(f"&#{ord(c)};" if c in _MEANINGFUL else c for c in one_line(text))


def _table(table: Table) -> Iterator[str]:
    """Write rows of text; pictures say what a number beside them says."""
    kept = [place for place in range(len(table.header)) if place not in table.pictures]
    yield _line([table.header[place] for place in kept])
    yield "|" + "---|" * len(kept)
    for row in table.rows:
        yield _line([row.cells[place] if place < len(row.cells) else "" for place in kept])


def _line(cells: Sequence[Cell]) -> str:
    return f"| {' | '.join(escape(text_of(cell).strip()) for cell in cells)} |"
