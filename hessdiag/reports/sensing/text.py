"""The matrix-sensing report for the terminal: where each method ends."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hessdiag.reports.sensing import TITLES
from hessdiag.reports.sensing.schema import notes
from hessdiag.reports.wording import plus_minus
from hessdiag.training.sensing import Sensing


def sensing_text(found: Sensing) -> RenderableType:
    """Lay the last values of each method out as a table."""
    settings = found.settings
    pairs = f"{settings.num_pairs} pair{'s' if settings.num_pairs > 1 else ''}"
    headline = Text(
        f"matrix sensing: rank {settings.rank} of {settings.dimension} × {settings.dimension}, "
        f"{settings.num_measurements:,} measurements\n"
        f"after {settings.steps:,} steps of size {settings.lr:g}; "
        f"σ = {settings.sigma:g}, NSO with {pairs}\n"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for label in ("relative error", "training loss", "tr H"):
        table.add_column(label, justify="right", no_wrap=True)
    for method, curves in found.curves.items():
        last = (values[-1] for values in (curves.relative_error, curves.loss, curves.trace))
        table.add_row(TITLES[method], *(plus_minus(float(value), None) for value in last))
    footer = Text(f"\n{found.seconds:.1f} s, {settings.dtype} on {found.device}", style="dim")
    for note in notes(found):
        footer.append(f"\nnote: {note}", style="yellow")
    return Group(headline, table, footer)
