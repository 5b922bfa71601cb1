"""Plots of sparsity reports."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from hessdiag.metadata import Provenance
from hessdiag.reports import figures
from hessdiag.reports.sparsity.plot import sparsity_figure
from hessdiag.sparsities.studies import Study
from tests.reports.sparsity.conftest import make


def test_alone(alone: list[Study], provenance: Provenance):
    figure = sparsity_figure(alone, provenance)
    curve, shares = figure.axes
    assert figure.get_suptitle() == "second derivative of beta_gelu(50)"
    assert len(curve.patches) == 3  # the intervals above the threshold
    assert shares.get_xscale() == "log"
    (study,) = alone
    assert study.profile is not None
    wanted = [100 * share.above for share in study.profile.gaussian]
    drawn = [list(line.get_ydata()) for line in shares.lines]
    assert wanted in drawn


def test_a_sweep(sweep: list[Study], provenance: Provenance):
    figure = sparsity_figure(sweep, provenance)
    curves, shares = figure.axes
    assert [line.get_label() for line in curves.lines] == ["β = 1", "β = 5", "β = 100"]
    for line in curves.lines:
        assert np.abs(line.get_ydata()).max() == pytest.approx(1, abs=0.01)
    assert len(shares.lines) == 4
    above = [100 * s.trained.total.above for s in sweep if s.trained]
    assert above in [list(line.get_ydata()) for line in shares.lines]


def test_a_checkpoint_has_a_panel_for_every_call(checkpoint: list[Study], provenance: Provenance):
    figure = sparsity_figure(checkpoint, provenance)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert [title.partition(":")[0] for title in titles] == ["act1", "act2"]
    assert figure.get_suptitle() == "mlp-5-4 beta_gelu(2) on digits (train)"


def test_many_calls_are_thinned_out(checkpoint: list[Study], provenance: Provenance):
    (study,) = checkpoint
    assert study.trained is not None
    calls = tuple(replace(study.trained.calls[0], name=f"act{i}") for i in range(60))
    many = replace(study, trained=replace(study.trained, calls=calls))
    titles = [a.get_title() for a in sparsity_figure([many], provenance).axes if a.get_title()]
    assert len(titles) == 24
    assert (titles[0][:5], titles[-1][:5]) == ("act0:", "act59")


@pytest.mark.parametrize("kind", ["alone", "sweep", "checkpoint", "mixed", "hostile"])
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_every_layout_is_written(
    kind: str, suffix: str, request: pytest.FixtureRequest, evil: Provenance, tmp_path: Path
):
    path = tmp_path / f"plot{suffix}"
    figures.save(sparsity_figure(request.getfixturevalue(kind), evil), path)
    if suffix == ".png":
        with Image.open(path) as image:
            image.load()
            assert len(np.unique(np.asarray(image.convert("L")))) > 10
    else:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["relu", "squared_relu", "elu", "softplus"])
def test_every_curve_can_be_drawn(name: str, provenance: Provenance, tmp_path: Path):
    figure = sparsity_figure([make(name)], provenance)
    figures.save(figure, tmp_path / "p.png")
    low, high = figure.axes[0].get_xlim()
    assert high - low > 0.5
