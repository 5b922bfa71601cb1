"""The spectrum report for people: parts side by side, densities, layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate
from hessdiag.metrics import metric_table
from hessdiag.metrics.metric_reading import Reading
from hessdiag.results import subject
from hessdiag.show.document import (
    SYMBOLS,
    TITLES,
    Bars,
    Block,
    Cell,
    Chart,
    Code,
    Count,
    Document,
    Interval,
    Marks,
    Named,
    Quantity,
    Row,
    Share,
    Table,
)
from hessdiag.show.origin import origin
from hessdiag.show.wording import ordinal, text_of
from hessdiag.spectra.densities import density_chart
from hessdiag.spectra.spectrum_result import Report

ENDS = (("top", "λ max"), ("bottom", "λ min"))
"""Fields of the extreme eigenvalues, and what they are called."""


def document(report: Report) -> Document:
    """Lay a spectrum out."""
    blocks = [Block("Parts side by side", [_parts(report)])]
    if any(part.density for part in report.parts.values()):
        blocks.append(Block("Spectral densities", [_densities(report)]))
    if any(part.layers for part in report.parts.values()):
        blocks.append(Block("Trace by layer", [_layers(report)]))
    if readings := metric_table.readings(report):
        blocks.append(Block("Across the parts", [_listed(readings)]))
    return Document(
        kind="Spectrum",
        title=subject(report),
        headline=list(_headline(report)),
        facts=list(_facts(report)),
        blocks=blocks,
        footer=list(_footer(report)),
        notes=report.notes,
        origin=origin(report),
    )


def estimate(found: Estimate) -> Quantity:
    """Show an estimate with its standard error."""
    return Quantity(found.value, found.stderr)


def eigenvalue(ritz: RitzValue) -> Quantity:
    """Show an eigenvalue with the bound on its error."""
    return Quantity(ritz.value, ritz.error, sure=ritz.converged)


def nth(label: str, place: int) -> str:
    """Name an eigenvalue by its place from its end of the spectrum, 0 for the first."""
    return label if place == 0 else f"  {ordinal(place + 1)}"


def _headline(report: Report) -> Iterator[str]:
    yield f"{text_of(Count(report.num_parameters))} parameters, {report.num_samples:,} samples"
    accuracy = f", accuracy {report.accuracy:.2%}" if report.accuracy is not None else ""
    yield f"{report.loss_name} {report.loss:.4g}{accuracy}\n"


def _facts(report: Report) -> Iterator[tuple[str, Cell]]:
    yield report.loss_name, Quantity(report.loss)
    yield "accuracy", Share(report.accuracy)
    for name, part in report.parts.items():
        yield f"tr {SYMBOLS[name]}", estimate(part.trace)
    for name, part in list(report.parts.items())[:1]:
        for end, label in ENDS:
            for ritz in getattr(part, end)[:1]:
                yield f"{label} {SYMBOLS[name]}", eigenvalue(ritz)
    yield "parameters", Count(report.num_parameters)
    yield "samples", Count(report.num_samples)


def _parts(report: Report) -> Table:
    parts = list(report.parts.values())
    rows: list[Row] = []
    for label, field in (("trace", "trace"), ("Frobenius norm", "frobenius_norm")):
        estimates: list[Estimate] = [getattr(part, field) for part in parts]
        rows.append(Row([label, *map(estimate, estimates)]))
        rows.append(Row(["95 % interval", *(Interval(e.ci95) for e in estimates)], "quiet"))
    if (finite := report.finite_radius) is not None:
        for label, found in (
            (f"trace at radius {finite.radius:g}", finite.trace),
            ("excess over pointwise", finite.excess),
        ):
            cells = (estimate(found) if name == "hessian" else "" for name in report.parts)
            rows.append(Row([label, *cells]))
    for end, label in ENDS:
        columns: list[Sequence[RitzValue]] = [getattr(part, end) for part in parts]
        for place in range(max(map(len, columns), default=0)):
            cells = (eigenvalue(c[place]) if place < len(c) else "" for c in columns)
            rows.append(Row([nth(label, place), *cells]))
    rayleigh = (report.rayleigh.get(name) for name in report.parts)
    rows.append(Row(["along the gradient, ĝᵀAĝ", *map(Quantity, rayleigh)]))
    estimates = [of for part in parts for of in (part.trace, part.frobenius_norm)]
    counts = sorted({of.num_probes for of in estimates})
    probes = " to ".join(
        dict.fromkeys(str(count) for count in (counts or [0])[:: len(counts) - 1 or 1])
    )
    caption = f"± is the standard error over {probes} probes, for eigenvalues a bound on the error"
    return Table(["", *(Named(TITLES[name], name) for name in report.parts)], rows, caption)


def _listed(readings: Mapping[str, Reading]) -> Table:
    rows = [
        Row(
            [
                metric_table.label(name),
                Quantity(reading.value, reading.error or None),
                Interval(reading.ci95) if reading.is_sampled else "",
            ]
        )
        for name, reading in readings.items()
    ]
    return Table(["", "", "95 % interval"], rows)


def _densities(report: Report) -> Chart:
    shown = {name: part.density for name, part in report.parts.items() if part.density}
    return density_chart(
        "spectral densities",
        [(TITLES[name], f"{name} filled", density) for name, density in shown.items()],
        [
            Marks(SYMBOLS[name], name, [(r.value, r.converged) for r in (*part.top, *part.bottom)])
            for name, part in report.parts.items()
            if name in shown
        ],
    )


def _layers(report: Report) -> Table:
    columns = {name: part.layers for name, part in report.parts.items() if part.layers}
    values = [trace.value for layers in columns.values() for trace in layers.values()]
    low, high = min(*values, 0.0), max(*values, 0.0)
    rows: list[Row] = []
    for layer in next(iter(columns.values())):
        traces = {name: layers.get(layer) for name, layers in columns.items()}
        bars = [(name, trace and trace.value) for name, trace in traces.items()]
        cells = (estimate(trace) if trace else "" for trace in traces.values())
        rows.append(Row([Code(layer), *cells, Bars(bars, low, high)]))
    header = ["parameter", *(Named(TITLES[name], name) for name in columns), "trace"]
    return Table(header, rows, "trace of each parameter's diagonal block, ± standard error")


def _footer(report: Report) -> Iterator[str]:
    checks = f"checks: |Hv − (Gv + Nv)| / |Hv| = {report.decomposition_residual:.1e}"
    if report.symmetry_residual is not None:
        checks += f", asymmetry {report.symmetry_residual:.1e}"
    yield checks
    cost = report.cost
    memory = f"peak memory {cost.peak_memory_bytes / 2**30:.2f} GiB"
    if cost.predicted_memory_bytes is not None:
        memory += f" ({cost.predicted_memory_bytes / 2**30:.2f} predicted)"
    yield (
        f"{cost.passes.get('total', 0)} passes over the data, {sum(cost.products.values())} "
        f"products, {cost.seconds:.1f} s, {memory}, "
        f"{report.dtype} on {report.device}"
    )
