"""Plots of a report."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from hessdiag import InputError, Report
from hessdiag.metadata import Provenance
from hessdiag.reports import figures
from hessdiag.reports.spectrum.axis import SymlogAxis
from hessdiag.reports.spectrum.plot import spectrum_figure

LABELS = ["Hessian H", "Gauss-Newton G", "NME N"]


def test_three_labelled_curves_and_a_mark_for_every_eigenvalue(report: Report, provenance):
    figure = spectrum_figure(report, provenance)
    curves, marks = figure.axes
    assert [line.get_label() for line in curves.lines] == LABELS
    assert [text.get_text() for text in curves.get_legend().get_texts()] == LABELS
    assert curves.get_xscale() == "symlog"
    assert len({line.get_color() for line in curves.lines}) == 3
    found = sorted(float(line.get_xdata()[0]) for line in marks.lines)
    wanted = [r.value for part in report.parts.values() for r in (*part.top, *part.bottom)]
    assert found == sorted(wanted)
    assert "mlp-5-4, beta_gelu on digits" in figure.get_suptitle()


def test_unconverged_eigenvalues_have_another_mark(report: Report):
    gn = report.parts["gn"]
    top = (replace(gn.top[0], converged=False), *gn.top[1:])
    figure = spectrum_figure(replace(report, parts={"gn": replace(gn, top=top)}))
    assert [line.get_marker() for line in figure.axes[1].lines].count("x") == 1


def test_png(report: Report, provenance: Provenance, tmp_path: Path):
    path = tmp_path / "plot.png"
    figures.save(spectrum_figure(report, provenance), path)
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 400
        assert len(np.unique(np.asarray(image.convert("L")))) > 10
    assert list(tmp_path.iterdir()) == [path]


def test_svg(report: Report, tmp_path: Path):
    path = tmp_path / "plot.svg"
    figures.save(spectrum_figure(report), path)
    assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["plot.gif", "plot", "plot.PN", "png"])
def test_other_suffixes_are_refused(report: Report, tmp_path: Path, name: str):
    with pytest.raises(InputError, match=r"unknown kind of plot[\s\S]*\.png, \.svg, \.pdf"):
        figures.check_plot_path(name)
    with pytest.raises(InputError, match="unknown kind of plot"):
        figures.save(spectrum_figure(report), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_capital_suffixes_are_fine():
    figures.check_plot_path("PLOT.SVG")


def test_without_a_density_there_is_nothing_to_draw(sparse_report: Report):
    with pytest.raises(InputError, match="there is no density to plot"):
        spectrum_figure(sparse_report)


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.parametrize("spec", ["a$\\frac{$.npz", "$x_$", "a\x1b[31m.npz", "<b>&--> .npz"])
def test_names_are_drawn_as_they_are(report: Report, provenance, tmp_path, spec: str, suffix: str):
    """No mathematics, no markup: a data file may have any name."""
    path = tmp_path / f"plot{suffix}"
    figures.save(spectrum_figure(report, replace(provenance, data=spec)), path)
    if suffix == ".svg":
        ElementTree.parse(path)


def test_the_shared_axis_keeps_the_area_of_every_density(report: Report):
    densities = [part.density for part in report.parts.values() if part.density]
    axis = SymlogAxis(densities, 4000)
    for density in densities:
        assert np.trapezoid(axis.density(density), axis.grid) == pytest.approx(1, abs=1e-3)
    assert axis.to_axis(np.array(0.0)) == 0
    assert np.all(np.diff(axis.grid) > 0)
