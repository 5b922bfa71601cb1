"""The plot of matrix sensing."""

from pathlib import Path

import numpy as np
import pytest

from hessdiag.reports import figures
from hessdiag.reports.sensing.plot import sensing_figure
from hessdiag.training.sensing import METHODS, Sensing


def test_three_curves_of_the_relative_error_on_a_logarithmic_scale(found: Sensing):
    (axes,) = sensing_figure(found).axes
    assert axes.get_yscale() == "log"
    for line, method in zip(axes.lines, METHODS, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), found.steps)
        np.testing.assert_array_equal(line.get_ydata(), found.curves[method].relative_error)
    legend = axes.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["gradient descent", "weight noise", "NSO"]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_it_can_be_saved(found: Sensing, tmp_path: Path, suffix: str):
    path = tmp_path / f"plot{suffix}"
    figures.save(sensing_figure(found), path)
    assert path.stat().st_size > 1000


def test_a_divergence_can_be_drawn(diverged: Sensing):
    figure = sensing_figure(diverged)
    figure.canvas.draw()
    assert figure.axes[0].get_ylim()[1] < np.inf
