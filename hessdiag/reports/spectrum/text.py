"""Reports for the terminal: Rich renderables, pure functions of the results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hessdiag.errors import printable
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate
from hessdiag.metadata import Provenance
from hessdiag.reports import TITLES
from hessdiag.reports.spectrum.axis import SymlogAxis
from hessdiag.reports.spectrum.schema import notes
from hessdiag.reports.wording import BARS, between, ordinal, plus_minus, title
from hessdiag.spectra.spectrum_result import Report


def spectrum_text(report: Report, provenance: Provenance | None = None) -> RenderableType:
    """Lay a spectrum report out: parts side by side, density, notes."""
    blocks: list[RenderableType] = [_headline(report, provenance), _table(report)]
    if any(part.density for part in report.parts.values()):
        blocks.append(_density(report))
    if any(part.layers for part in report.parts.values()):
        blocks.append(_layers(report))
    blocks.append(_footer(report))
    return Group(*blocks)


def _headline(report: Report, provenance: Provenance | None) -> Text:
    parts: list[str] = []
    if provenance is not None:
        parts.append(title(provenance))
    parts.append(f"{report.num_parameters:,} parameters, {report.num_samples:,} samples")
    accuracy = f", accuracy {report.accuracy:.2%}" if report.accuracy is not None else ""
    parts.append(f"{report.loss_name} {report.loss:.4g}{accuracy}")
    return Text(printable("\n".join(parts)))


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for name in report.parts:
        table.add_column(TITLES[name], justify="right", no_wrap=True)
    parts = list(report.parts.values())
    table.add_row("trace", *(_value(part.trace) for part in parts))
    table.add_row("  95 % interval", *(_interval(part.trace) for part in parts), style="dim")
    if (finite := report.finite_radius) is not None:
        for label, estimate in (
            (f"trace at radius {finite.radius:g}", finite.trace),
            ("  excess over pointwise", finite.excess),
        ):
            table.add_row(
                label, *(_value(estimate) if name == "hessian" else "" for name in report.parts)
            )
    table.add_row("Frobenius norm", *(_value(part.frobenius_norm) for part in parts))
    for end, label in (("top", "λ max"), ("bottom", "λ min")):
        values = [getattr(part, end) for part in parts]
        _add_eigenvalues(table, label, values)
    rayleigh = list(report.rayleigh.values())
    table.add_row(
        "along the gradient",
        *("none" if value is None else f"{value:.4g}" for value in rayleigh),
    )
    return table


def _add_eigenvalues(table: Table, label: str, columns: Sequence[tuple[RitzValue, ...]]) -> None:
    for index in range(max(map(len, columns))):
        name = label if index == 0 else f"  {ordinal(index + 1)}"
        table.add_row(
            name,
            *(
                plus_minus(column[index].value, column[index].residual)
                + ("" if column[index].converged else " ?")
                for column in columns
            ),
        )


def _density(report: Report) -> Group:
    """Draw the densities as rows of bars, logarithmic in height, on one symmetric-log axis."""
    densities = {n: part.density for n, part in report.parts.items() if part.density is not None}
    axis = SymlogAxis(densities.values(), 60)
    lines: list[Text] = [Text("\nspectral density (symmetric-log axis, log height)", style="dim")]
    curves = {name: axis.density(density) for name, density in densities.items()}
    peak = max(float(curve.max()) for curve in curves.values())
    for name, curve in curves.items():
        height = np.log10(np.maximum(curve / peak, 1e-7)) / 7 + 1
        bars = "".join(BARS[int(np.ceil(h * 8))] for h in np.clip(height, 0, 1))
        lines.append(Text(f"{TITLES[name]:<15}").append(bars, style="cyan"))
    low, high = f"{axis.grid[0]:.2g}", f"{axis.grid[-1]:.2g}"
    ruler = list(low.ljust(60 - len(high)) + high)
    if axis.grid[0] < 0 < axis.grid[-1]:
        zero = int(np.searchsorted(axis.grid, 0.0))
        if len(low) < zero < 60 - len(high):
            ruler[zero] = "0"
    lines.append(Text(" " * 15 + "".join(ruler), style="dim"))
    return Group(*lines)


def _layers(report: Report) -> Table:
    table = Table(
        box=None, pad_edge=False, padding=(1, 3, 0, 0), header_style="bold", title_justify="left"
    )
    table.add_column("trace by layer")
    for name in report.parts:
        table.add_column(TITLES[name], justify="right", no_wrap=True)
    columns = [part.layers or {} for part in report.parts.values()]
    for layer in columns[0]:
        table.add_row(escape(printable(layer)), *(_value(column[layer]) for column in columns))
    table.padding = (0, 3, 0, 0)
    return table


def _footer(report: Report) -> Text:
    cost = report.cost
    counts = sorted({part.trace.num_probes for part in report.parts.values()})
    num_probes = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = Text()
    text.append(
        f"\n± is the standard error over {num_probes} probes, for eigenvalues a bound on "
        f"the error\nchecks: |Hv − (Gv + Nv)| / |Hv| = {report.decomposition_residual:.1e}",
        style="dim",
    )
    if report.symmetry_residual is not None:
        text.append(f", asymmetry {report.symmetry_residual:.1e}", style="dim")
    products = sum(cost.products.values())
    text.append(
        f"\n{cost.passes['total']} passes over the data, {products} products, "
        f"{cost.seconds:.1f} s, peak memory {cost.peak_memory_bytes / 2**30:.2f} GiB, "
        f"{report.dtype} on {report.device}",
        style="dim",
    )
    for note in notes(report):
        text.append(f"\nnote: {note}", style="yellow")
    return text


def _value(estimate: Estimate) -> str:
    return plus_minus(estimate.value, estimate.stderr)


def _interval(estimate: Estimate) -> str:
    if estimate.ci95 is None:
        return "none"
    return "\\[{}, {}]".format(*between(*estimate.ci95))
