"""What all plots share: colours, file formats, writing."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hessdiag.errors import InputError
from hessdiag.files import replacing

COLOURS = {"hessian": "#333333", "gn": "#0072b2", "nme": "#d55e00"}  # safe for colour-blind eyes
SUFFIXES = (".png", ".svg", ".pdf")


def check_plot_path(path: str | os.PathLike[str]) -> None:
    """Refuse a plot whose suffix matplotlib would not know.

    Raises:
        InputError: the suffix is not one of SUFFIXES.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(
            "unknown kind of plot", got=Path(path).name, wanted=f"a name in {', '.join(SUFFIXES)}"
        )


def blank(width: float, height: float) -> Figure:
    """Make an empty figure of this size in inches, with no window behind it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to ``path`` in one step; its suffix chooses the format."""
    check_plot_path(path)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=160, format=Path(path).suffix[1:].lower())
