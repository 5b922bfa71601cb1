"""Documents as one page of HTML that needs nothing else: a summary, then a section for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

from hessdiag import __version__
from hessdiag.show import svg
from hessdiag.show.document import (
    Bars,
    Block,
    Cell,
    Chart,
    Code,
    Document,
    Interval,
    Map,
    Named,
    Quantity,
    Row,
    Table,
    Verdict,
    drawing,
)
from hessdiag.show.markup import Markup, join, tag, text
from hessdiag.show.plotting import map_pictures
from hessdiag.show.wording import between, text_of

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


@dataclass(frozen=True)
class Section:
    """A report laid out.

    Attributes:
        title: what it speaks of.
        card: for the summary, given where the section stands.
        body: likewise.
    """

    title: str
    card: Markup
    body: Markup


def page(documents: Sequence[Document], title: str | None = None) -> str:
    """Lay documents out as one page, which loads nothing and runs nothing.

    Args:
        documents: one at least, in the order in which they are to be shown.
        title: of the page; None for that of a single document, else a general one.
    """
    with drawing("a report"):
        return frame([section(shown, place) for place, shown in enumerate(documents, 1)], title)


def frame(sections: Sequence[Section], title: str | None = None) -> str:
    """Put sections into a page."""
    name = title or (sections[0].title if len(sections) == 1 else "Curvature report")
    style = resources.files("hessdiag.show").joinpath("style.css").read_text("utf-8")
    head = join(
        (
            Markup('<meta charset="utf-8">'),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{text(_POLICY)}">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Markup('<meta name="color-scheme" content="light dark">'),
            Markup('<meta name="referrer" content="no-referrer">'),
            Markup('<link rel="icon" href="data:,">'),
            tag("title", name),
            Markup(f"<style>{style}</style>"),
        )
    )
    plural = "s" if len(sections) > 1 else ""
    told = f"{len(sections)} report{plural}, laid out by hessdiag {__version__}"
    body = join(
        (
            tag("a", "Skip to the reports", href="#reports", class_="skip"),
            tag("header", tag("h1", name), tag("p", told)),
            tag("nav", *(section.card for section in sections), aria_label="Summary"),
            tag("main", *(section.body for section in sections), id="reports", tabindex=-1),
            tag(
                "footer",
                tag("p", "H = G + N: Hessian, Gauss-Newton part, Nonlinear Modeling Error."),
            ),
        )
    )
    html = tag("html", tag("head", head), tag("body", body), lang="en")
    return f"<!DOCTYPE html>\n{html}\n"


def section(document: Document, place: int) -> Section:
    """Lay one document out; ``place`` counts the reports of the page from 1."""
    verdict = (_badge(document.verdict),) if document.verdict else ()
    title = tag("a", document.title, href=f"#report-{place}")
    card = tag(
        "article",
        tag("p", document.kind, class_="kind"),
        tag("h2", title, *verdict),
        _definitions(document.facts),
    )
    notes = tag("ul", *(tag("li", note) for note in document.notes), class_="notes")
    origin = _definitions(document.origin)
    body = tag(
        "section",
        tag("p", document.kind, class_="kind"),
        tag("h2", document.title, id=f"report-{place}"),
        notes if document.notes else "",
        *(_block(block) for block in document.on("page")),
        tag("details", tag("summary", "Provenance and settings"), origin),
        aria_labelledby=f"report-{place}",
    )
    return Section(document.title, card, body)


def _block(block: Block) -> Markup:
    """Lay tables out in their order, charts before them, side by side unless they are wide."""
    charts = [
        map_pictures.picture(item) if isinstance(item, Map) else svg.chart(item)
        for item in block.items
        if not isinstance(item, Table)
    ]
    wide = any(isinstance(item, Chart) and item.wide for item in block.items)
    grid = charts if wide or len(charts) < 2 else [tag("div", *charts, class_="grid")]
    tables = [_table(item, block.heading) for item in block.items if isinstance(item, Table)]
    return tag("div", tag("h3", block.heading), *grid, *tables, class_="block")


def _table(table: Table, heading: str) -> Markup:
    """Lay out a table that scrolls in its box; the first cell of a row is its heading."""
    pictures = table.pictures
    kinds = [
        "number" if at >= table.words and at not in pictures else None
        for at in range(len(table.header))
    ]
    headings = (
        tag("th", _cell(cell), scope="col", class_=kind)
        for cell, kind in zip(table.header, kinds, strict=True)
    )
    content = tag(
        "table",
        tag("caption", table.caption) if table.caption else "",
        tag("thead", tag("tr", *headings)),
        tag("tbody", *(_row(row, kinds) for row in table.rows)),
    )
    label = table.caption or heading
    box = tag("div", content, class_="scroll", role="region", tabindex=0, aria_label=label)
    return tag("details", tag("summary", table.caption), box) if table.folded else box


def _row(row: Row, kinds: Sequence[str | None]) -> Markup:
    first, *others = [*row.cells, *[""] * (len(kinds) - len(row.cells))]
    cells = (
        tag("td", _cell(cell), class_=kind) for cell, kind in zip(others, kinds[1:], strict=True)
    )
    return tag("tr", tag("th", _cell(first), scope="row"), *cells, class_=row.style or None)


def _cell(cell: Cell) -> Markup:
    match cell:
        case Code(name):
            return tag("code", name)
        case Named(name, style):
            return join((tag("i", class_=f"swatch {style}", aria_hidden="true"), name))
        case Verdict(name):
            return _badge(name)
        case Bars():
            return svg.bars(cell)
        case Quantity(sure=False):
            number = text_of(Quantity(cell.value, cell.error))
            return join((_minus(number), tag("small", "not converged", class_="unsure")))
        case Interval(ends) if ends is not None:
            return text(_minus(" to ".join(between(*ends))))
        case str():
            return text(cell)
        case _:
            return text(_minus(text_of(cell)))


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _badge(verdict: str) -> Markup:
    """Mark a verdict by word and sign, and by colour besides."""
    sign = {"pass": "✓", "fail": "✗"}.get(verdict, "?")
    known = verdict if verdict in ("pass", "fail") else "unsure"
    return tag("span", f"{sign} {verdict}", class_=f"verdict {known}")


def _definitions(facts: Iterable[tuple[str, Cell]]) -> Markup:
    """Lay out names with their values."""

    def pairs() -> Iterator[Markup]:
        for name, cell in facts:
            yield tag("div", tag("dt", name), tag("dd", _cell(cell)))

    return tag("dl", *pairs())
