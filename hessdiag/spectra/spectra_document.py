"""Spectra of many checkpoints for people: a row each."""

from __future__ import annotations

from collections.abc import Mapping

from hessdiag.metrics.metric import Missing
from hessdiag.metrics.metric_table import parse
from hessdiag.show.document import (
    SYMBOLS,
    Block,
    Cell,
    Code,
    Document,
    Quantity,
    Row,
    Share,
    Table,
)
from hessdiag.spectra.spectrum_result import Report

_COLUMNS = {
    "loss": "loss",
    "accuracy": "accuracy",
    **{f"{part}.trace": f"tr {symbol}" for part, symbol in SYMBOLS.items()},
    "hessian.lambda_max": "λ max H",
}


def document(reports: Mapping[str, Report | str]) -> Document:
    """Lay spectra out.

    Args:
        reports: by name; a text says why there is none.
    """
    measured = {name: report for name, report in reports.items() if isinstance(report, Report)}
    cells = {
        path: {name: _cell(report, name) for name in _COLUMNS} for path, report in measured.items()
    }
    shown = [name for name in _COLUMNS if any(own[name] for own in cells.values())]
    rows = [Row([Code(path), *(own[name] or "" for name in shown)]) for path, own in cells.items()]
    heads = ["checkpoint", *(_COLUMNS[name] for name in shown)]
    caption = "± is the standard error over the probes, for eigenvalues a bound on the error"
    return Document(
        kind="Spectra",
        title=f"{len(measured)} of {len(reports)} checkpoints measured",
        facts=[],
        blocks=[Block("Spectra", [Table(heads, rows, caption)])] if rows else [],
        notes=[f"{path}: {told}" for path, told in reports.items() if isinstance(told, str)],
    )


def _cell(report: Report, name: str) -> Cell | None:
    found = parse(name).read(report)
    if isinstance(found, Missing):
        return None
    return Share(found.value) if name == "accuracy" else Quantity(found.value, found.error or None)
