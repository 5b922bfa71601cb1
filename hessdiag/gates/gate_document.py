"""The gate for people: each limit with its verdict, and what was measured."""

from __future__ import annotations

from collections import Counter

from hessdiag.gates.gate_result import GateReport, Judgement
from hessdiag.metrics.metric_reading import Reading
from hessdiag.results import subject
from hessdiag.show.document import (
    Block,
    Cell,
    Code,
    Document,
    Interval,
    Quantity,
    Row,
    Table,
    Verdict,
)
from hessdiag.show.origin import origin
from hessdiag.show.wording import text_of

_SUMMARIES = {"pass": "passes", "fail": "fails", "inconclusive": "cannot tell"}


def document(report: GateReport) -> Document:
    """Lay a gate out."""
    blocks = [Block("Limits", [_limits(report)])] if report.findings else []
    if report.readings:
        media = ("page",) if report.findings else ("terminal", "page", "markdown")
        blocks.append(Block("Readings", [_readings(report)], media))
    counts = Counter(finding.verdict for finding in report.findings)
    of = f" on {report.subject}" if report.subject else ""
    footer = (
        [
            f"{report.num_probes} probes, {report.seconds:.1f} s; all verdicts together hold with "
            f"{100 * report.confidence:g} % confidence"
        ]
        if report.max_probes is not None
        else []
    )
    return Document(
        kind="Gate",
        title=f"the gate {_SUMMARIES[report.verdict]}{of}",
        headline=[subject(report)] if report.model.name is not None else [],
        facts=[(verdict, str(times)) for verdict, times in counts.items()],
        blocks=blocks,
        footer=footer,
        notes=report.notes,
        origin=origin(report),
        verdict=report.verdict,
    )


def value(found: Judgement) -> str:
    """Write the metric, and behind an arrow what it is now if it is held against a baseline."""
    if found.reading is None:
        return "missing"
    now = text_of(_quantity(found.reading))
    return now if found.baseline is None else f"{text_of(_quantity(found.baseline))} → {now}"


def _quantity(reading: Reading) -> Quantity:
    return Quantity(reading.value, reading.error or None)


def _limits(report: GateReport) -> Table:
    rows = [
        Row(
            [
                Verdict(found.verdict),
                Code(found.metric),
                value(found),
                found.limit.text,
                found.reason,
            ]
        )
        for found in report.findings
    ]
    return Table(["verdict", "metric", "value", "limit", "why"], rows, words=5)


def _readings(report: GateReport) -> Table:
    rows: list[Row] = []
    for name, reading in report.readings.items():
        cells: list[Cell] = [Code(name), _quantity(reading)]
        rows.append(Row([*cells, Interval(reading.ci95) if reading.ci95 else ""]))
    return Table(["metric", "value", "95 % interval"], rows, "± is a standard error, or a bound")
