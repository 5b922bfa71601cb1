"""Comparisons as a plot: the densities of A and B over one another, a panel a part."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from hessdiag.comparisons.comparison_run import Comparison
from hessdiag.errors import InputError, printable
from hessdiag.reports import TITLES
from hessdiag.reports.comparison.schema import Provenances
from hessdiag.reports.figures import COLOURS, blank
from hessdiag.spectra.densities import SymlogAxis


def comparison_figure(found: Comparison, provenances: Provenances = (None, None)) -> Figure:
    """Draw the densities of every part, A dashed and B solid, on one symmetric-log axis.

    Raises:
        InputError: A and B have no density of the same part.
    """
    pairs = {
        name: (a, b)
        for name in found.parts
        if (a := found.a.parts[name].density) and (b := found.b.parts[name].density)
    }
    if not pairs:
        raise InputError("there are no densities to plot", hint="leave out --no-density")
    axis = SymlogAxis((density for pair in pairs.values() for density in pair), 2000)
    figure = blank(8, 1 + 1.9 * len(pairs))
    panels = np.atleast_1d(figure.subplots(len(pairs), 1, sharex=True))
    for panel, (name, pair) in zip(panels, pairs.items(), strict=True):
        curves = [axis.density(density) for density in pair]
        peak = max(float(curve.max()) for curve in curves)
        for curve, letter, line in zip(curves, "AB", ("--", "-"), strict=True):
            shown = np.maximum(curve, peak * 1e-12)
            panel.plot(axis.grid, shown, line, color=COLOURS[name], label=letter, lw=1.6)
        panel.set_yscale("log")
        panel.set_ylim(peak * 1e-8, peak * 3)
        panel.set_ylabel(TITLES[name])
        panel.legend(frameon=False, loc="upper right")
        panel.grid(alpha=0.25)
    last = panels[-1]
    last.set_xscale("symlog", linthresh=axis.tau, linscale=0.7)
    last.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=10 * axis.tau))
    last.set_xlim(axis.grid[0], axis.grid[-1])
    last.set_xlabel("eigenvalue λ")
    named = [
        f"{letter}: {provenance.checkpoint or provenance.model.name}"
        for letter, provenance in zip("AB", provenances, strict=True)
        if provenance is not None
    ]
    figure.suptitle(
        printable("\n".join(["spectral density", *named])), fontsize=11, parse_math=False
    )
    return figure
