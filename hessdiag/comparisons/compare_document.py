"""The comparison for people: A, B and their differences, part by part."""

from __future__ import annotations

from collections.abc import Iterator

from hessdiag.comparisons.compare_result import Change, Comparison, Side
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate
from hessdiag.metrics import metric_table
from hessdiag.metrics.metric_reading import Reading
from hessdiag.results import subject
from hessdiag.show.document import (
    SYMBOLS,
    TITLES,
    Block,
    Cell,
    Chart,
    Count,
    Document,
    Interval,
    Named,
    Quantity,
    Row,
    Share,
    Table,
)
from hessdiag.show.origin import origin
from hessdiag.show.wording import text_of
from hessdiag.spectra.densities import density_chart
from hessdiag.spectra.spectrum_document import ENDS, eigenvalue, estimate, nth


def document(found: Comparison) -> Document:
    """Lay a comparison out."""
    blocks = [Block("Differences", [_differences(found)])]
    if any(part.overlap for part in found.parts.values()):
        blocks.append(Block("Overlap of the top eigenspaces", [_overlaps(found)]))
    if charts := _densities(found):
        blocks.append(Block("Spectral densities", charts, ("page", "figure")))
    one, other = subject(found.first), subject(found.second)
    return Document(
        kind="Comparison",
        title=one if one == other else f"A: {one}; B: {other}",
        headline=[_headline("A", found.first), _headline("B", found.second)],
        facts=list(_facts(found)),
        blocks=blocks,
        notes=found.notes,
        origin=origin(found, {"A": found.first, "B": found.second}),
    )


def _headline(letter: str, side: Side) -> str:
    path = f"{side.checkpoint.path}: " if side.checkpoint.path else ""
    parameters = text_of(Count(side.checkpoint.num_parameters))
    samples = text_of(Count(side.data.num_samples))
    return f"{letter}  {path}{subject(side)}, {parameters} parameters, {samples} samples"


def _facts(found: Comparison) -> Iterator[tuple[str, Cell]]:
    for label, exact, write in (
        (found.loss.name, found.loss, Quantity),
        ("accuracy", found.accuracy, Share),
    ):
        yield label, f"{text_of(write(exact.a))} → {text_of(write(exact.b))}"
    for name, part in found.parts.items():
        yield f"Δ tr {SYMBOLS[name]}", Quantity(part.trace.value, part.trace.error)
    yield "probes", "paired" if found.paired else "independent"


def _differences(found: Comparison) -> Table:
    loss, accuracy = found.loss, found.accuracy
    cells = (Quantity(loss.a), Quantity(loss.b), Quantity(loss.difference))
    rows = [Row([loss.name, *cells])]
    if accuracy.difference is not None:
        points = f"{100 * accuracy.difference:+.2f} points"
        rows.append(Row(["accuracy", Share(accuracy.a), Share(accuracy.b), points]))
    for name, part in found.parts.items():
        rows.append(Row([Named(TITLES[name], name)], "heading"))
        rows += [_row("trace", part.trace), _row("Frobenius norm", part.frobenius_norm)]
        for end, label in ENDS:
            changes: tuple[Change[RitzValue], ...] = getattr(part, end)
            rows += [_row(nth(label, place), change) for place, change in enumerate(changes)]
    if found.metrics:
        rows.append(Row(["Across the parts"], "heading"))
        rows += [_row(metric_table.label(name), change) for name, change in found.metrics.items()]
    pairing = "the same probes" if found.paired else "independent probes"
    counts = sorted({side.settings.num_probes for side in (found.first, found.second)})
    caption = (
        f"± is the standard error over {' and '.join(map(str, counts))} probes ({pairing}), for "
        "eigenvalues a bound on the error\n* zero lies outside the 95 % interval, or the bound: "
        "each by itself"
    )
    return Table(["", "A", "B", "B − A", "95 % interval", "change", ""], rows, caption)


def _row(label: str, change: Change[Estimate] | Change[RitzValue] | Change[Reading]) -> Row:
    a, b = (_quantity(of) for of in (change.a, change.b))
    # an eigenvalue's bound says the same as its interval, and what is exact has none
    sampled = not isinstance(change.a, RitzValue) and change.error is not None
    return Row(
        [
            *(f"  {label}", a, b, Quantity(change.value, change.error)),
            Interval(change.interval) if sampled else "",
            "" if change.relative is None else f"{100 * change.relative:+.3g} %",
            "*" if change.significant else "",
        ],
        "" if change.significant else "faint",
    )


def _quantity(of: Estimate | RitzValue | Reading) -> Quantity:
    if isinstance(of, Reading):
        return Quantity(of.value, of.error or None)
    return eigenvalue(of) if isinstance(of, RitzValue) else estimate(of)


def _overlaps(found: Comparison) -> Table:
    rows = [
        Row(
            [
                Named(TITLES[name], name),
                Quantity(part.overlap.value, sure=part.overlap.converged),
                ", ".join(f"{cosine:.3g}" for cosine in part.overlap.cosines),
            ]
        )
        for name, part in found.parts.items()
        if part.overlap is not None
    ]
    return Table(["", "overlap", "cosines of the principal angles"], rows, "1 for equal spaces")


def _densities(found: Comparison) -> list[Chart]:
    pairs = {name: part.density for name, part in found.parts.items() if part.density}
    names = [
        letter + (f": {side.checkpoint.path}" if side.checkpoint.path else "")
        for letter, side in (("A", found.first), ("B", found.second))
    ]
    shown = [density for pair in pairs.values() for density in (pair.a, pair.b)]
    return [
        density_chart(
            TITLES[name],
            [(names[0], "initial dashed", pair.a), (names[1], "trained", pair.b)],
            together_with=shown,
        )
        for name, pair in pairs.items()
    ]
