"""Densities of two networks over one another."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from hessdiag import Comparison, InputError
from hessdiag.reports import figures
from hessdiag.reports.comparison.plot import comparison_figure
from hessdiag.reports.comparison.schema import Provenances

TITLES = ["Hessian H", "Gauss-Newton G", "NME N"]


def test_each_part_has_a_panel_with_a_dashed_and_b_solid(comparison: Comparison, provenances):
    figure = comparison_figure(comparison, provenances)
    assert [panel.get_ylabel() for panel in figure.axes] == TITLES
    for panel in figure.axes:
        assert [line.get_label() for line in panel.lines] == ["A", "B"]
        assert [line.get_linestyle() for line in panel.lines] == ["--", "-"]
        assert len({line.get_color() for line in panel.lines}) == 1
        a, b = (line.get_ydata() for line in panel.lines)
        assert abs(a - b).max() > 0
        assert panel.get_xscale() == "symlog"
    assert "A: run/model.safetensors\nB: run/other.safetensors" in figure.get_suptitle()


def test_without_densities_there_is_nothing_to_draw(sparse: Comparison):
    with pytest.raises(InputError, match="there are no densities to plot"):
        comparison_figure(sparse)


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_file_may_have_any_name(comparison: Comparison, provenances: Provenances, tmp_path: Path):
    own = provenances[0]
    assert own is not None
    hostile = replace(own, checkpoint="a$\\frac{$\x1b<b>.pt")
    figures.save(comparison_figure(comparison, (hostile, None)), tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        image.verify()
