"""The page: summary of all sources, then a section for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hessdiag.errors import InputError, unknown
from hessdiag.gates.readings import GATE
from hessdiag.reports.html.section import Section, badge, definitions, notes, origin
from hessdiag.reports.html.sources import Source
from hessdiag.reports.html.verdicts import gate
from hessdiag.show.document import drawing
from hessdiag.show.markup import Markup, tag
from hessdiag.show.page import Section as Laid
from hessdiag.show.page import frame, section

SECTIONS: dict[str, Callable[[dict[str, Any]], Section]] = {
    GATE: gate,
}
"""How a report is laid out, by its schema."""

_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError)


def page(sources: Sequence[Source], title: str | None = None) -> str:
    """Lay sources out as one HTML document, which loads nothing and runs nothing.

    Args:
        sources: one at least, in the order in which they are to be shown.
        title: of the page; None for that of a single source, else a general one.

    Raises:
        InputError: a source's schema is unknown, or it is not as its schema says.
    """
    return frame([_laid_out(source, place) for place, source in enumerate(sources, 1)], title)


def _laid_out(source: Source, place: int) -> Laid:
    """Give title, card and body of a source."""
    if source.document is not None:
        with drawing(source.path):
            return section(source.document, place)
    schema = str(source.payload.get("schema"))
    if schema not in SECTIONS:
        raise unknown(f"schema of {source.path}", schema[:80], SECTIONS)
    try:
        with np.errstate(over="raise", divide="raise", invalid="raise"):
            found = SECTIONS[schema](source.payload)
            return Laid(found.title, _card(found, place), _body(found, source, place))
    except _DAMAGED as error:
        raise InputError(
            "the report is damaged",
            got=f"{source.path}: {type(error).__name__}: {error}"[:200],
            wanted=f"{schema} as in docs/json.md",
        ) from error


def _card(section: Section, place: int) -> Markup:
    verdict = (badge(section.verdict),) if section.verdict else ()
    return tag(
        "article",
        tag("p", section.kind, class_="kind"),
        tag("h2", tag("a", section.title, href=f"#report-{place}"), *verdict),
        definitions(section.facts),
    )


def _body(section: Section, source: Source, place: int) -> Markup:
    return tag(
        "section",
        tag("p", section.kind, class_="kind"),
        tag("h2", section.title, id=f"report-{place}"),
        notes(source.payload),
        *section.blocks,
        origin(source),
        aria_labelledby=f"report-{place}",
    )
