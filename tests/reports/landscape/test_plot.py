"""Plots of a landscape."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import LogNorm, PowerNorm
from PIL import Image

from hessdiag import Landscape
from hessdiag.metadata import Provenance
from hessdiag.reports import figures
from hessdiag.reports.landscape.plot import landscape_figure


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


def test_one_row_for_each_activation_and_one_scale_for_each_column(pair: Landscape):
    axes = panels(landscape_figure(pair))
    assert len(axes) == 6
    for upper, lower in zip(axes[:3], axes[3:], strict=True):
        assert upper.images[0].get_clim() == lower.images[0].get_clim()
    titles = [ax.get_title() for ax in axes if ax.get_title()]
    assert titles == ["loss", "Gauss-Newton norm", "NME norm"]
    labels = {ax.get_xlabel() for ax in axes} - {""}
    assert labels == {pair.labels[0]}
    words = [text.get_text() for ax in axes for text in ax.texts]
    assert words == ["0 away from the kinks"]
    names = [axes[0].get_ylabel(), axes[3].get_ylabel()]
    assert [name.split("\n")[0] for name in names] == ["relu", "beta_gelu(10)"]
    assert isinstance(axes[5].images[0].norm, PowerNorm)


def test_the_pictures_show_the_tables(pair: Landscape):
    axes = panels(landscape_figure(pair))
    for column, name in enumerate(("loss", "gn_norm", "nme_norm")):
        for row, surface in enumerate(pair.surfaces):
            shown = axes[column + 3 * row].images[0].get_array()
            np.testing.assert_allclose(shown, getattr(surface, name).T)


def test_a_network_s_name_and_its_full_norms(single: Landscape, provenance: Provenance):
    figure = landscape_figure(single, provenance)
    assert len(panels(figure)) == 5
    assert figure.get_suptitle() == "mlp-5-4 beta_gelu(2) on digits (train)"
    assert panels(figure)[0].get_ylabel().endswith("gn eigenvector 2")


def test_a_wide_range_is_logarithmic(single: Landscape):
    (surface,) = single.surfaces
    steep = replace(surface, loss=np.geomspace(1, 1e3, 25).reshape(5, 5))
    axes = panels(landscape_figure(replace(single, surfaces=(steep,))))
    assert isinstance(axes[0].images[0].norm, LogNorm)


@pytest.mark.parametrize("which", ["gappy", "empty"])
def test_what_is_not_finite_can_be_drawn(which: str, request: pytest.FixtureRequest):
    figure = landscape_figure(request.getfixturevalue(which))
    figure.canvas.draw()
    assert panels(figure)[0].images[0].get_array().mask.any()


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_it_can_be_saved(pair: Landscape, provenance: Provenance, tmp_path: Path, suffix: str):
    path = tmp_path / f"plot{suffix}"
    figures.save(landscape_figure(pair, provenance), path)
    if suffix == ".svg":
        ElementTree.parse(path)
    else:
        with Image.open(path) as image:
            assert min(image.size) > 400


@pytest.mark.parametrize("value", [0.0, -2.0, 1e-300, 1e300])
def test_constants_can_be_drawn(single: Landscape, value: float):
    (surface,) = single.surfaces
    flat = np.full_like(surface.loss, value)
    surface = replace(surface, loss=flat, gn_norm=abs(flat), gn_full=None, nme_full=None)
    landscape_figure(replace(single, surfaces=(surface,))).canvas.draw()


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("labels", [("$\\frac{$", "\x1b[31m"), ("a_b[0]", "<b>&")])
def test_names_are_drawn_as_they_are(single: Landscape, tmp_path: Path, labels: tuple[str, str]):
    path = tmp_path / "p.svg"
    figures.save(landscape_figure(replace(single, labels=labels)), path)
    ElementTree.parse(path)
