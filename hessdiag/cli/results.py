"""Where a command's result goes: plot, JSON, terminal; one place for all commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType


def check_targets(*texts: str | None, json: str | None, plot: str | None = None) -> None:
    """Refuse output paths early, before any long computation.

    Raises:
        InputError: one cannot be written, or the plot's suffix is unknown.
    """
    from hessdiag import files
    from hessdiag.reports import figures

    for path in (*texts, None if json == "-" else json):
        if path is not None:
            files.check_writable(path)
    if plot is not None:
        figures.check_plot_path(plot)
        files.check_writable(plot)


def deliver(
    *,
    json: str | None,
    quiet: bool,
    payload: Callable[[], dict[str, Any]],
    plot: str | None = None,
    figure: Callable[[], Figure] | None = None,
    text: Callable[[], RenderableType],
) -> None:
    """Write the plot and the JSON that are asked for; print the text unless JSON has stdout.

    Of several processes only the first one does.
    """
    from hessdiag import files
    from hessdiag.cli import console
    from hessdiag.linalg import processes
    from hessdiag.reports import figures
    from hessdiag.reports.payload import dumps

    if not processes.is_first():
        return
    if plot is not None and figure is not None:
        figures.save(figure(), plot)
    if json == "-":
        sys.stdout.write(dumps(payload()))
        return
    if json is not None:
        files.write_text(json, dumps(payload()))
    if not quiet:
        console.out().print(text())
