"""The landscape report for the terminal: shaded maps, their ranges, notes."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hessdiag.errors import printable
from hessdiag.landscapes.surfaces import Array, Landscape, Surface
from hessdiag.metadata import Provenance
from hessdiag.nets import activations
from hessdiag.reports.landscape import NORMS
from hessdiag.reports.landscape.scale import Scale
from hessdiag.reports.landscape.schema import notes
from hessdiag.reports.wording import plus_minus, title

SHADES = " ░▒▓█"
_WIDTH, _HEIGHT = 36, 16  # of a map, in characters
_GAP = "   "
_SCALES = {"linear": "", "log": ", log", "root": ", root"}


def landscape_text(found: Landscape, provenance: Provenance | None = None) -> RenderableType:
    """Lay a landscape out: two maps and a table of ranges for each surface, notes."""
    blocks: list[RenderableType] = [_headline(found, provenance)]
    for surface in found.surfaces:
        blocks += [_maps(surface), _ranges(surface)]
    blocks.append(_footer(found))
    return Group(*blocks)


def _headline(found: Landscape, provenance: Provenance | None) -> Text:
    names = [name for surface in found.surfaces if (name := surface_name(surface))]
    lines = [title(provenance)] if provenance else [" beside ".join(names)] if names else []
    plural = "s" if found.num_samples != 1 else ""
    lines.append(
        f"{found.num_parameters:,} parameters, {found.num_samples:,} sample{plural}, "
        f"{found.loss_name}"
    )
    for arrow, label, coordinates in zip("→↑", found.labels, (found.a, found.b), strict=True):
        lines.append(f"{arrow} {label}, {coordinates[0]:+.3g} to {coordinates[-1]:+.3g}")
    return Text(printable("\n".join(lines)))


def surface_name(surface: Surface) -> str:
    """Name a surface's activation with its β; empty where not known."""
    return activations.label(surface.activation, surface.beta) if surface.activation else ""


def _maps(surface: Surface) -> Text:
    """Draw loss and NME norm side by side; the norm's cells show their largest value."""
    panels = (("loss", surface.loss, np.nanmean), (NORMS["nme_norm"], surface.nme_norm, np.nanmax))
    text = Text("\n")
    if name := surface_name(surface):
        text.append(f"{name}\n", style="bold")
    columns: list[list[str]] = []
    for label, table, summary in panels:
        scale = Scale.of(table)
        heading = f"{label}, {_reach(table, scale)}"
        rows = draw(_cells(table, summary), scale)
        frame = "─" * _WIDTH
        columns.append(
            [f" {heading:<{_WIDTH + 1}}", f"┌{frame}┐", *(f"│{r}│" for r in rows), f"└{frame}┘"]
        )
    lines = [_GAP.join(pair).rstrip() for pair in zip(*columns, strict=True)]
    text.append(lines[0] + "\n", style="dim")
    return text.append("\n".join(lines[1:]), style="cyan")


def _reach(table: Array, scale: Scale) -> str:
    if np.isnan(table).all():
        return "nowhere finite"
    if scale.low == scale.high:
        return f"{scale.low:.3g} everywhere"
    return f"{scale.low:.3g} to {scale.high:.3g}{_SCALES[scale.kind]}"


def draw(cells: Array, scale: Scale) -> list[str]:
    """Shade cells ``(width, height)`` as lines, the first coordinate to the right, the second up.

    Any value above the scale's low end gets the faintest shade at least; NaN is a question mark.
    """
    level = np.ceil(scale.shade(cells) * (len(SHADES) - 1) - 1e-9).astype(int)
    return [
        "".join("?" if math.isnan(cells[i, j]) else SHADES[level[i, j]] for i in range(len(cells)))
        for j in reversed(range(cells.shape[1]))
    ]


def _cells(table: Array, summary: object) -> Array:
    """Summarise a table on the cells of a map; cells of a coarse table repeat its values."""
    assert callable(summary)
    cells = np.full((_WIDTH, _HEIGHT), np.nan)
    for i, rows in enumerate(_shares(len(table), _WIDTH)):
        for j, columns in enumerate(_shares(len(table), _HEIGHT)):
            block = table[rows, columns]
            if not np.isnan(block).all():
                cells[i, j] = summary(block)
    return cells


def _shares(num_points: int, num_cells: int) -> list[slice]:
    """Cut points into as many runs as there are cells, each of one point at least."""
    edges = [num_points * k // num_cells for k in range(num_cells + 1)]
    return [slice(low, max(high, low + 1)) for low, high in pairwise(edges)]


def _ranges(surface: Surface) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for label in ("least", "largest", "at θ"):
        table.add_column(label, justify="right", no_wrap=True)
    origin = surface.origin
    table.add_row("loss", *_extremes(surface.loss), plus_minus(origin.loss, None))
    for field, label in NORMS.items():
        value: float = getattr(origin, field)
        table.add_row(label, *_extremes(getattr(surface, field)), plus_minus(value, None))
    for label, sampled, estimate in (
        ("norm of all of G", surface.gn_full, origin.gn_full),
        ("norm of all of N", surface.nme_full, origin.nme_full),
    ):
        if sampled is not None and estimate is not None:
            centre = plus_minus(estimate.value, estimate.stderr)
            table.add_row(label, *_extremes(sampled.value), centre)
    return table


def _extremes(table: Array) -> tuple[str, str]:
    """Format the least and the largest value that are finite."""
    if np.isnan(table).all():
        return "none", "none"
    return f"{np.nanmin(table):.4g}", f"{np.nanmax(table):.4g}"


def _footer(found: Landscape) -> Text:
    text = Text()
    kind = "norms are Frobenius norms of the parts restricted to the plane"
    if found.num_probes:
        kind += f";\nthose of all of G and N are sampled, with {found.num_probes} probes"
    text.append(f"\n{kind}", style="dim")
    for label, ritz in zip(found.labels, found.eigenvalues, strict=False):
        eigenvalue = plus_minus(ritz.value, ritz.residual)
        text.append(f"\n{printable(label)}: λ = {eigenvalue}", style="dim")
    text.append(
        f"\n{found.num_points:,} points, {found.seconds:.1f} s, peak memory "
        f"{found.peak_memory_bytes / 2**30:.2f} GiB, {found.dtype} on {found.device}",
        style="dim",
    )
    for note in notes(found):
        text.append(f"\nnote: {printable(note)}", style="yellow")
    return text
