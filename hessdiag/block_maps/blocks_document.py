"""The maps of blocks for people."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hessdiag.block_maps.blocks_result import Blocks
from hessdiag.results import subject
from hessdiag.show.document import (
    SYMBOLS,
    TITLES,
    Axis,
    Block,
    Cell,
    Code,
    Count,
    Document,
    Map,
    Named,
    Quantity,
    Row,
    Share,
    Table,
)
from hessdiag.show.origin import origin
from hessdiag.show.wording import text_of


def document(found: Blocks) -> Document:
    """Lay the maps of blocks out, each part on its own scale."""
    return Document(
        kind="Blocks",
        title=subject(found),
        headline=[
            f"{text_of(Count(found.num_parameters))} parameters in {len(found.layers)} "
            f"{found.settings.by}s, {found.num_samples or 0:,} samples, {found.risk.name}\n"
        ],
        facts=list(_facts(found)),
        blocks=[
            Block("Parts", [_parts(found)]),
            Block("Norms of blocks", _maps(found), columns=len(found.parts)),
            Block(f"By {found.settings.by}", [_layers(found)]),
        ],
        footer=[
            "‖A_lm‖_F, the block of rows l and columns m; ± standard error, 0 where it is exact",
            f"{found.cost.seconds:.1f} s, {found.settings.dtype} on {found.settings.device}",
        ],
        notes=found.notes,
        origin=origin(found),
    )


def _facts(found: Blocks) -> Iterator[tuple[str, Cell]]:
    for name, part in found.parts.items():
        if part.within is not None:
            yield f"{SYMBOLS[name]}, share within layers", _share(found, name)


def _share(found: Blocks, name: str) -> Cell:
    within = found.parts[name].within
    return "" if within is None else Share(within.value, within.stderr)


def _parts(found: Blocks) -> Table:
    rows = [
        Row(
            [
                Named(TITLES[name], name),
                Quantity(part.frobenius_norm.value, part.frobenius_norm.stderr),
                _share(found, name),
            ]
        )
        for name, part in found.parts.items()
    ]
    caption = "share of the squared norm in the blocks on the diagonal"
    return Table(["part A", "‖A‖_F", f"within {found.settings.by}s"], rows, caption)


def _maps(found: Blocks) -> list[Map]:
    places = np.arange(1, len(found.layers) + 1, dtype=np.float64)
    axis = Axis(f"{found.settings.by}, in order", "linear", whole=True)
    return [
        Map(
            title=f"‖{SYMBOLS[name]}_lm‖_F",
            x=axis,
            y=axis,
            across=places,
            up=places,
            values=part.norm,
            among=[part.norm],
            colours=name,
            peaks=True,
            centred=False,
            remark="" if part.norm.any() else "0 everywhere",
        )
        for name, part in found.parts.items()
    ]


def _layers(found: Blocks) -> Table:
    header: list[Cell] = ["", "entries", *(f"‖{SYMBOLS[name]}_ll‖_F" for name in found.parts)]
    rows = [
        Row([Code(f"{at + 1} {layer.name}"), Count(layer.size), *_diagonal(found, at)])
        for at, layer in enumerate(found.layers)
    ]
    return Table(header, rows)


def _diagonal(found: Blocks, at: int) -> Iterator[Cell]:
    for part in found.parts.values():
        yield Quantity(float(part.norm[at, at]), float(part.stderr[at, at]))
