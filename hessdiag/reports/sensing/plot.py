"""The matrix-sensing report as a plot."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from hessdiag.reports.figures import blank
from hessdiag.reports.sensing import TITLES
from hessdiag.training.sensing import Sensing

_COLOURS = {"gd": "#333333", "weight-noise": "#0072b2", "nso": "#d55e00"}


def sensing_figure(found: Sensing) -> Figure:
    """Draw the relative error of each method over the steps."""
    figure = blank(6, 3.8)
    axes = figure.subplots()
    for method, curves in found.curves.items():
        error = np.ma.masked_invalid(curves.relative_error)
        axes.plot(found.steps, error, color=_COLOURS[method], label=TITLES[method])
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("relative error  ‖X − UUᵀ‖ / ‖X‖")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure
