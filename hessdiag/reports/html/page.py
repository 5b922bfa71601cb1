"""The page: summary of all sources, then a section for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import numpy as np

from hessdiag import __version__
from hessdiag.errors import InputError, unknown
from hessdiag.gates.readings import GATE
from hessdiag.reports.comparison.schema import COMPARE
from hessdiag.reports.html.landscape import landscape
from hessdiag.reports.html.markup import Markup, join, tag, text
from hessdiag.reports.html.section import Section, badge, definitions, notes, origin
from hessdiag.reports.html.sensing import sensing
from hessdiag.reports.html.sources import Source
from hessdiag.reports.html.sparsity import sparsity
from hessdiag.reports.html.spectrum import spectrum
from hessdiag.reports.html.sweep import sweep
from hessdiag.reports.html.training import training
from hessdiag.reports.html.verdicts import compare, gate
from hessdiag.reports.landscape.schema import LANDSCAPE
from hessdiag.reports.sensing.schema import SENSING
from hessdiag.reports.sparsity.schema import SPARSITY
from hessdiag.reports.spectrum.schema import SPECTRUM
from hessdiag.reports.sweep.schema import SWEEP
from hessdiag.reports.training.schema import SCHEMA as TRAIN

SECTIONS: dict[str, Callable[[dict[str, Any]], Section]] = {
    SPECTRUM: spectrum,
    SPARSITY: sparsity,
    LANDSCAPE: landscape,
    TRAIN: training,
    SWEEP: sweep,
    SENSING: sensing,
    GATE: gate,
    COMPARE: compare,
}
"""How a report is laid out, by its schema."""

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError)


def page(sources: Sequence[Source], title: str | None = None) -> str:
    """Lay sources out as one HTML document, which loads nothing and runs nothing.

    Args:
        sources: one at least, in the order in which they are to be shown.
        title: of the page; None for that of a single source, else a general one.

    Raises:
        InputError: a source's schema is unknown, or it is not as its schema says.
    """
    shown = [_laid_out(source, place) for place, source in enumerate(sources, 1)]
    name = title or (shown[0][0] if len(shown) == 1 else "Curvature report")
    style = resources.files("hessdiag.reports.html").joinpath("style.css").read_text("utf-8")
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
    plural = "s" if len(shown) > 1 else ""
    body = join(
        (
            tag("a", "Skip to the reports", href="#reports", class_="skip"),
            tag(
                "header",
                tag("h1", name),
                tag("p", f"{len(shown)} report{plural}, laid out by hessdiag {__version__}"),
            ),
            tag("nav", *(card for _, card, _ in shown), aria_label="Summary"),
            tag("main", *(body for _, _, body in shown), id="reports", tabindex=-1),
            tag(
                "footer",
                tag("p", "H = G + N: Hessian, Gauss-Newton part, Nonlinear Modeling Error."),
            ),
        )
    )
    html = tag("html", tag("head", head), tag("body", body), lang="en")
    return f"<!DOCTYPE html>\n{html}\n"


def _laid_out(source: Source, place: int) -> tuple[str, Markup, Markup]:
    """Give title, card and body of a source."""
    schema = str(source.payload.get("schema"))
    if schema not in SECTIONS:
        raise unknown(f"schema of {source.path}", schema[:80], SECTIONS)
    try:
        with np.errstate(over="raise", divide="raise", invalid="raise"):
            section = SECTIONS[schema](source.payload)
            return section.title, _card(section, place), _body(section, source, place)
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
