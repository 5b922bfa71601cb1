"""The spectrum report as a plot."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from hessdiag.errors import InputError, printable
from hessdiag.metadata import Provenance
from hessdiag.reports import TITLES
from hessdiag.reports.figures import COLOURS, blank
from hessdiag.reports.spectrum.axis import SymlogAxis
from hessdiag.spectra.spectrum_result import Report


def spectrum_figure(report: Report, provenance: Provenance | None = None) -> Figure:
    """Draw the densities of the parts on one symmetric-log axis, eigenvalues marked below.

    Raises:
        InputError: the report holds no density.
    """
    parts = {name: part for name, part in report.parts.items() if part.density is not None}
    if not parts:
        raise InputError("there is no density to plot", hint="leave out --no-density")
    axis = SymlogAxis((part.density for part in parts.values() if part.density), 2000)
    figure = blank(8, 4.8)
    curves_axes, marks_axes = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": (8, 1 + 0.5 * len(parts))}
    )
    peak = 0.0
    for row, (name, part) in enumerate(parts.items()):
        assert part.density is not None
        curve = axis.density(part.density)
        peak = max(peak, float(curve.max()))
        shown = np.maximum(curve, curve.max() * 1e-12)
        curves_axes.plot(axis.grid, shown, color=COLOURS[name], label=TITLES[name], lw=1.6)
        values = [ritz.value for ritz in (*part.top, *part.bottom)]
        converged = [ritz.converged for ritz in (*part.top, *part.bottom)]
        for value, ok in zip(values, converged, strict=True):
            marks_axes.plot(
                value, -row, "|" if ok else "x", color=COLOURS[name], markersize=9, clip_on=False
            )
    curves_axes.set_yscale("log")
    curves_axes.set_ylim(peak * 1e-8, peak * 3)
    curves_axes.set_xscale("symlog", linthresh=axis.tau, linscale=0.7)
    curves_axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=10 * axis.tau))
    curves_axes.set_xlim(axis.grid[0], axis.grid[-1])
    curves_axes.set_ylabel("spectral density")
    curves_axes.legend(frameon=False)
    curves_axes.grid(alpha=0.25)
    marks_axes.set_yticks(
        [-row for row in range(len(parts))], [TITLES[n].split()[-1] for n in parts]
    )
    marks_axes.set_ylim(-len(parts) + 0.4, 0.6)
    marks_axes.grid(axis="x", alpha=0.25)
    marks_axes.set_xlabel("eigenvalue λ; marks: extreme eigenvalues")
    if provenance is not None:
        model = provenance.model
        activation = f", {model.activation}" if model.activation else ""
        title = printable(f"{model.name}{activation} on {provenance.data}")
        figure.suptitle(title, fontsize=11, parse_math=False)
    return figure
