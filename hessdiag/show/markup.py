"""HTML that no content can break: whatever is not Markup is text, and escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from hessdiag.errors import printable
from hessdiag.show.wording import NONE, between, plus_minus


class Markup(str):
    """HTML as such; any other string is text, still to be escaped."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Escape a value for use between tags or in an attribute; control characters are shown."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(printable(str(value))))


def join(parts: Iterable[object]) -> Markup:
    """Put markup and text together."""
    return Markup("".join(text(part) for part in parts))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """Build an element; ``class_`` and ``stroke_width`` become ``class`` and ``stroke-width``.

    Args:
        name: of the element.
        children: markup, or text to be escaped.
        attributes: None leaves one out; floats are written to four digits.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def _attribute(value: object) -> Markup:
    return text(f"{value:.4g}" if isinstance(value, float) else value)


def number(value: float | None, error: float | None = None) -> str:
    """Format value ± error with a minus sign proper."""
    return NONE if value is None else plus_minus(value, error).replace("-", "−")


def percent(share: float | None) -> str:
    """Format a share between 0 and 1, to four figures."""
    return NONE if share is None else f"{number(100 * share)} %"


def count(value: int | None) -> str:
    """Format a count with thousands apart."""
    return NONE if value is None else f"{value:,}"


def estimate(found: dict[str, float | None] | None, error: str = "stderr") -> Markup:
    """Lay out value ± error of an estimate, its 95 % interval below, if there is one."""
    if found is None:
        return text(NONE)
    interval: object = found.get("ci95")
    ends = between(*interval) if isinstance(interval, list) else None
    below = tag("small", " to ".join(ends).replace("-", "−")) if ends else ""
    return join((number(found["value"], found[error] or None), below))


def eigenvalue(found: dict[str, float | None]) -> Markup:
    """Lay out an eigenvalue with the bound on its error; say so if it has not converged."""
    missed = "" if found["converged"] else tag("small", "not converged", class_="unsure")
    return join((number(found["value"], found["residual"]), missed))


def table(
    caption: str, header: Sequence[object], rows: Iterable[Sequence[object]], *, words: int = 1
) -> Markup:
    """Lay out a table that scrolls in its box; the first cell of a row is its heading.

    Args:
        caption: what it shows.
        header: headings of the columns.
        rows: markup or text, one cell a column.
        words: columns, from the left, that hold words; all others hold numbers.
    """
    body = list(rows)
    pictures = {at for row in body for at, cell in enumerate(row) if str(cell).startswith("<svg")}
    kinds = ["number" if at >= words and at not in pictures else None for at in range(len(header))]
    headings = (
        tag("th", cell, scope="col", class_=kind) for cell, kind in zip(header, kinds, strict=True)
    )
    lines = (
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(tag("td", cell, class_=kind) for cell, kind in zip(row[1:], kinds[1:], strict=True)),
        )
        for row in body
    )
    content = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *headings)),
        tag("tbody", *lines),
    )
    return tag("div", content, class_="scroll", role="region", tabindex=0, aria_label=caption)


def block(heading: str, *content: object) -> Markup:
    """Lay out a part of a section under its heading."""
    return tag("div", tag("h3", heading), *content, class_="block")
