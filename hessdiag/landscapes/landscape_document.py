"""The landscape report for people: maps over the plane, and their ranges."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hessdiag.landscapes.landscape_result import NORMS, Array, Landscape, Surface
from hessdiag.results import subject
from hessdiag.show.document import Axis, Block, Cell, Document, Map, Quantity, Row, Table
from hessdiag.show.origin import origin

_TITLES = {
    "loss": "loss",
    "nme_norm": NORMS["nme_norm"],
    "gn_norm": NORMS["gn_norm"],
    "nme_full": "norm of all of N",
    "gn_full": "norm of all of G",
}


def document(landscape: Landscape) -> Document:
    """Lay a landscape out: for each surface its maps, on scales that all surfaces share."""
    blocks: list[Block] = []
    for surface in landscape.surfaces:
        maps = [_map(landscape, surface, name) for name in _TITLES if name in surface.tables()]
        heading = surface.title or "Maps"
        blocks.append(Block(heading, [*maps, _ranges(surface)], columns=len(maps)))
    if landscape.eigenvalues:
        pairs = zip(landscape.labels, landscape.eigenvalues, strict=False)
        rows = [
            Row([label, Quantity(ritz.value, ritz.error, ritz.converged)]) for label, ritz in pairs
        ]
        blocks.append(Block("Plane", [Table(["direction", "λ"], rows)]))
    names = [surface.title for surface in landscape.surfaces if surface.title]
    known = landscape.model.name is not None
    return Document(
        kind="Landscape",
        title=" beside ".join(names) if names and not known else subject(landscape),
        headline=list(_headline(landscape)),
        facts=list(_facts(landscape)),
        blocks=blocks,
        footer=list(_footer(landscape)),
        notes=landscape.notes,
        origin=origin(landscape),
    )


def _headline(landscape: Landscape) -> Iterator[str]:
    count = landscape.num_samples
    yield (
        f"{landscape.num_parameters or 0:,} parameters, {count or 0:,} "
        f"sample{'s' if count != 1 else ''}, {landscape.risk.name}"
    )
    sides = (landscape.a, landscape.b)
    for arrow, label, side in zip("→↑", landscape.labels, sides, strict=True):
        yield f"{arrow} {label}, {side[0]:+.3g} to {side[-1]:+.3g}"
    yield ""


def _facts(landscape: Landscape) -> Iterator[tuple[str, Cell]]:
    for surface in landscape.surfaces:
        name = f", {surface.activation}" if len(landscape.surfaces) > 1 else ""
        for field in ("loss", *NORMS):
            yield f"{_TITLES[field]} at θ{name}", Quantity(getattr(surface.origin, field))
    yield "points", f"{len(landscape.a)} × {len(landscape.b)}"
    yield "plane", landscape.plane


def _map(landscape: Landscape, surface: Surface, name: str) -> Map:
    table = surface.tables()[name]
    several = f", {surface.title}" if len(landscape.surfaces) > 1 else ""
    away = "away from the kinks" if surface.has_kinks else "at every point"
    return Map(
        title=f"{_TITLES[name]}{several}",
        x=Axis(landscape.labels[0], "linear"),
        y=Axis(landscape.labels[1], "linear"),
        across=landscape.a,
        up=landscape.b,
        values=table,
        among=[other.tables()[name] for other in landscape.surfaces if name in other.tables()],
        colours=name.split("_")[0],
        contours=name == "loss",
        peaks=name != "loss",
        remark="" if table.any() else f"0 {away}",
    )


def _ranges(surface: Surface) -> Table:
    rows: list[Row] = []
    for name, table in sorted(surface.tables().items(), key=lambda pair: [*_TITLES].index(pair[0])):
        at = getattr(surface.origin, name)
        centre = Quantity(at.value, at.stderr) if hasattr(at, "stderr") else Quantity(at)
        rows.append(Row([_TITLES[name], *_extremes(table), centre]))
    return Table(["", "least", "largest", "at θ"], rows)


def _extremes(table: Array) -> tuple[Cell, Cell]:
    """Give the least and the largest value that are finite."""
    if np.isnan(table).all():
        return "none", "none"
    return Quantity(float(np.nanmin(table))), Quantity(float(np.nanmax(table)))


def _footer(landscape: Landscape) -> Iterator[str]:
    yield "norms are Frobenius norms of the parts restricted to the plane"
    if landscape.settings.num_probes:
        count = landscape.settings.num_probes
        yield f"those of all of G and N are sampled, with {count} probes"
    cost, settings = landscape.cost, landscape.settings
    yield (
        f"{cost.num_points:,} points, {cost.seconds:.1f} s, peak memory "
        f"{cost.peak_memory_bytes / 2**30:.2f} GiB, {settings.dtype} on {settings.device}"
    )
