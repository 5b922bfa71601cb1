"""The plot of a sweep."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hessdiag.reports import figures
from hessdiag.reports.sweep.plot import sweep_figure
from hessdiag.training.trials import Sweep
from tests.reports.sweep.conftest import cell


def over(*values: float) -> Sweep:
    return Sweep([cell("sam", 0.5, 0.6, rho=value) for value in values])


def ticks(axes):
    labels = [label.get_text() for label in axes.get_xticklabels()]
    return list(zip(axes.get_xticks(), labels, strict=True))


def test_the_curves_show_means_and_deviations(complete: Sweep):
    (axes,) = sweep_figure(complete).axes
    assert [bars.get_label() for bars in axes.containers] == ["grad-penalty", "sam"]
    line, _, (bars,) = axes.containers[0].lines
    assert line.get_ydata() == pytest.approx([85, 86, 87, 95])
    deviation = 10 / np.sqrt(2)
    for segment, mean in zip(bars.get_segments(), line.get_ydata(), strict=True):
        assert segment[:, 1] == pytest.approx([mean - deviation, mean + deviation])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("ρ", "accuracy, %")


def test_curves_at_one_strength_stand_beside_each_other(complete: Sweep):
    (axes,) = sweep_figure(complete).axes
    first, second = (bars.lines[0].get_xdata() for bars in axes.containers)
    assert 0 < second[0] - first[0] < 0.05 * (first[-1] - first[0])


def test_the_baseline_is_a_line_with_a_band(complete: Sweep):
    (axes,) = sweep_figure(complete).axes
    (baseline,) = (line for line in axes.lines if line.get_label() == "none")
    assert baseline.get_ydata() == pytest.approx([82, 82])
    (band,) = axes.patches
    assert band.get_y() == pytest.approx(82 - 2 * np.sqrt(2))
    assert band.get_height() == pytest.approx(4 * np.sqrt(2))


def test_a_decade_is_logarithmic_with_zero_across_a_break():
    (axes,) = sweep_figure(over(0, 0.01, 0.1)).axes
    assert ticks(axes) == [(-2.5, "0"), (-2, "0.01"), (-1, "0.1")]
    assert [text.get_text() for text in axes.texts] == ["//"]


def test_less_than_a_decade_is_linear():
    (axes,) = sweep_figure(over(0, 0.02, 0.1)).axes
    assert ticks(axes) == [(0, "0"), (0.02, "0.02"), (0.1, "0.1")]
    assert not axes.texts


def test_a_cell_whose_runs_all_failed_is_a_cross_on_the_floor(broken: Sweep):
    (axes,) = sweep_figure(broken).axes
    (crosses,) = (line for line in axes.lines if line.get_marker() == "x")
    assert list(crosses.get_xdata()) == [1.0]
    assert axes.containers[0].lines[0].get_ydata() == pytest.approx([50])


def test_each_strength_has_a_panel_with_colours_of_its_own():
    cells = [cell("sam", 0.5, rho=rho) for rho in (0.1, 0.2)]
    cells += [cell("nso", 0.5, sigma2=sigma2) for sigma2 in (1e-4, 1e-3)]
    panels = sweep_figure(Sweep(cells)).axes
    assert [axes.get_xlabel() for axes in panels] == ["ρ", "σ²"]
    assert len({axes.containers[0].lines[0].get_color() for axes in panels}) == 2


def test_where_nothing_varies_cells_are_points_with_their_seeds():
    found = Sweep([cell("none", 0.5, 0.7), cell("sam", 0.6, 0.8, rho=0.1)])
    (axes,) = sweep_figure(found).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", "sam"]
    assert [list(bars.lines[0].get_xdata()) for bars in axes.containers] == [
        [pytest.approx(60)],
        [pytest.approx(70)],
    ]
    assert list(axes.lines[0].get_xdata()) == pytest.approx([50, 70])


def test_a_sweep_of_failures_can_be_drawn():
    figure = sweep_figure(Sweep([cell("none", "diverged"), cell("sam", "diverged", rho=0.1)]))
    assert not figure.axes[0].containers


@pytest.mark.parametrize("suffix", figures.SUFFIXES)
def test_every_kind_of_file_is_written(complete: Sweep, tmp_path: Path, suffix: str):
    path = tmp_path / f"sweep{suffix}"
    figures.save(sweep_figure(complete), path)
    assert path.stat().st_size > 3000
    if suffix == ".png":
        assert np.asarray(Image.open(path).convert("L")).std() > 5
