"""Comparisons for the terminal: one table, a block a part, and what qualifies it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hessdiag.comparisons.changes import Change, Overlap
from hessdiag.comparisons.comparison_run import Comparison
from hessdiag.errors import printable
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate
from hessdiag.metadata import Provenance
from hessdiag.reports import TITLES
from hessdiag.reports.comparison.schema import Provenances, notes
from hessdiag.reports.wording import between, ordinal, plus_minus, title
from hessdiag.spectra.spectrum_result import Report


def comparison_text(found: Comparison, provenances: Provenances = (None, None)) -> RenderableType:
    """Lay a comparison out: A, B, the differences with intervals, notes."""
    lines = [_headline("A", found.a, provenances[0]), _headline("B", found.b, provenances[1])]
    footer = Text(f"\n{_legend(found)}", style="dim")
    for note in notes(found):
        footer.append(f"\nnote: {printable(note)}", style="not dim yellow")
    return Group(Text("\n".join(lines)), _table(found), footer)


def _headline(letter: str, report: Report, provenance: Provenance | None) -> str:
    about = [f"{report.num_parameters:,} parameters, {report.num_samples:,} samples"]
    if provenance is not None:
        about = [str(provenance.checkpoint), title(provenance), *about]
    return printable(f"{letter}  {': '.join(about[:2])}{''.join(f', {a}' for a in about[2:])}")


def _table(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for name in ("A", "B", "B − A", "95 % interval", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    a, b = found.a, found.b
    table.add_row(
        Text(printable(a.loss_name)), f"{a.loss:.4g}", f"{b.loss:.4g}", f"{b.loss - a.loss:+.4g}"
    )
    if a.accuracy is not None and b.accuracy is not None:
        difference = f"{100 * (b.accuracy - a.accuracy):+.2f} points"
        table.add_row("accuracy", f"{a.accuracy:.2%}", f"{b.accuracy:.2%}", difference)
    for name, part in found.parts.items():
        table.add_row()
        table.add_row(Text(TITLES[name], style="bold"))
        _add(table, "trace", part.trace)
        _add(table, "Frobenius norm", part.frobenius_norm)
        for label, changes in (("λ max", part.top), ("λ min", part.bottom)):
            for index, change in enumerate(changes):
                _add(table, label if index == 0 else f"  {ordinal(index + 1)}", change)
        if part.overlap is not None:
            table.add_row(*_overlap(part.overlap))
    return table


def _add(table: Table, label: str, change: Change) -> None:
    table.add_row(
        f"  {label}",
        _value(change.a),
        _value(change.b),
        plus_minus(change.value, change.error),
        _interval(change),
        "" if change.relative is None else f"{100 * change.relative:+.3g} %",
        "*" if change.significant else "",
        style="" if change.significant else "dim",
    )


def _value(found: Estimate | RitzValue) -> str:
    if isinstance(found, Estimate):
        return plus_minus(found.value, found.stderr)
    return plus_minus(found.value, found.error) + ("" if found.converged else " ?")


def _interval(change: Change) -> str:
    if isinstance(change.a, RitzValue):
        return ""  # its bound says the same
    return "none" if change.interval is None else "\\[{}, {}]".format(*between(*change.interval))


def _overlap(found: Overlap) -> tuple[str, ...]:
    sure = "" if found.converged else " ?"
    angles = f"cosines {found.cosines[0]:.3g} to {found.cosines[-1]:.3g}"
    return f"  overlap of top {len(found.cosines)}", "", "", f"{found.value:.4f}{sure}", angles


def _legend(found: Comparison) -> str:
    pairing = "the same probes" if found.paired else "independent probes"
    counts = sorted({of.settings.num_probes for of in (found.a, found.b)})
    return (
        f"± is the standard error over {' and '.join(map(str, counts))} probes ({pairing}), for "
        "eigenvalues a bound on the error\n* zero lies outside the 95 % interval, or the bound: "
        "each by itself"
    )
