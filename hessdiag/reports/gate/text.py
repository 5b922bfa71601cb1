"""The report of a gate for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hessdiag.errors import printable
from hessdiag.gates.gate_run import GateReport
from hessdiag.gates.verdicts import FAIL, INCONCLUSIVE, PASS, Finding
from hessdiag.reports.wording import plus_minus

_STYLES = {PASS: "green", FAIL: "bold red", INCONCLUSIVE: "yellow"}
_SUMMARIES = {PASS: "passes", FAIL: "fails", INCONCLUSIVE: "cannot tell"}


def gate_text(report: GateReport, subject: str | None = None) -> RenderableType:
    """Lay a gate out: the verdict, a line for each limit, what was measured."""
    heading = Text("the gate ", no_wrap=True)  # a wrapped path could start a line with a command
    heading.append(_SUMMARIES[report.verdict], _STYLES[report.verdict])
    if subject is not None:
        heading.append(f" on {one_line(subject)}")
    blocks: list[RenderableType] = [heading]
    if report.findings:
        blocks.append(_table(report))
    else:
        blocks += [
            Text(f"{name}  {plus_minus(reading.value, reading.error or None)}")
            for name, reading in report.readings.items()
        ]
    if report.max_probes is not None:
        blocks.append(
            Text(
                f"{report.num_probes} probes, {report.seconds:.1f} s; all verdicts together hold "
                f"with {100 * report.confidence:g} % confidence",
                "dim",
            )
        )
    return Group(*blocks)


def one_line(text: str) -> str:
    """Make control characters visible, line breaks too."""
    return printable(text).replace("\n", "\\n")


def value(finding: Finding) -> str:
    """Format the metric, and behind an arrow what it was in the baseline."""
    if finding.reading is None:
        return "missing"
    now = plus_minus(finding.reading.value, finding.reading.error or None)
    before = finding.baseline
    return now if before is None else f"{plus_minus(before.value, before.error or None)} → {now}"


def _table(report: GateReport) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    table.add_column("value", no_wrap=True)
    table.add_column("limit", no_wrap=True)
    table.add_column("why")
    for finding in report.findings:
        table.add_row(
            Text(finding.verdict, _STYLES[finding.verdict]),
            Text(one_line(finding.limit.metric)),
            Text(value(finding)),
            Text(finding.limit.text),
            Text(finding.reason),
        )
    return table
