"""Documents as figures: every curve and every mark is drawn, names are no mathematics."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from hessdiag import InputError
from hessdiag.show.document import Axis, Block, Chart, Curve, Document, Map, Marks
from hessdiag.show.plotting import figure
from tests.results import RESULTS


def document(*charts: Chart, title: str = "t") -> Document:
    return Document("kind", title, [], [Block("b", charts)])


def chart(label: str = "y", **changes: object) -> Chart:
    curve = Curve("one", [0.0, 1.0], [1.0, 2.0], "b")
    return Chart(label, Axis("x", "linear"), Axis(label), [curve], **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RESULTS)
def test_every_curve_and_mark_is_drawn(name: str):
    told = RESULTS[name]().document()
    charts = told.charts()
    if not told.pictures():
        with pytest.raises(InputError, match="there is nothing to plot"):
            figure.figure(told)
        return
    drawn = figure.figure(told)
    lines = [line for axes in drawn.axes for line in axes.lines]
    for curve in (curve for chart in charts for curve in chart.curves):
        heights = [line.get_ydata() for line in lines]  # one with errors has no label of its own
        assert any(
            np.array_equal(np.asarray(found, float), np.asarray(curve.y, float), True)
            for found in heights
        )
    marks = [value for chart in charts for row in chart.marks for value, _ in row.values]
    points = [line for line in lines if len(line.get_xdata()) == 1 and line.get_marker() in "|x+"]
    places = [float(np.ravel(line.get_xdata())[0]) for line in points]
    maps = [item for item in told.pictures() if isinstance(item, Map)]
    assert sorted(places) == sorted(
        [*marks, *(0.0 for shown in maps if shown.centred)]
    )  # θ is marked on a map
    images = [image for axes in drawn.axes for image in axes.images]
    assert [image.get_array().shape for image in images] == [shown.values.T.shape for shown in maps]
    assert told.title in drawn.get_suptitle()


def test_curves_of_a_spectrum_have_a_colour_each_on_a_symmetric_axis():
    drawn = figure.figure(RESULTS["spectrum"]().document())
    assert len({line.get_color() for line in drawn.axes[0].lines}) == 3
    assert drawn.axes[0].get_xscale() == "symlog"
    assert drawn.axes[0].get_yscale() == "log"


def test_unsure_marks_have_another_sign():
    marks = [Marks("H", "hessian", [(0.25, True), (0.5, False)])]
    drawn = figure.figure(document(chart(marks=marks)))
    assert [line.get_marker() for line in drawn.axes[1].lines] == ["|", "x"]


def test_several_charts_are_panels():
    drawn = figure.figure(document(chart("one"), chart("two"), chart("three"), chart("four")))
    assert [axes.get_ylabel() for axes in drawn.axes] == ["one", "two", "three", "four"]


def test_files(tmp_path: Path):
    told = RESULTS["spectrum"]().document()
    figure.save(told, tmp_path / "plot.PNG")
    figure.save(told, tmp_path / "plot.svg")
    with Image.open(tmp_path / "plot.PNG") as image:
        image.load()
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image.convert("L")))) > 10
    assert ElementTree.parse(tmp_path / "plot.svg").getroot().tag.endswith("svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plot.PNG", "plot.svg"]


@pytest.mark.parametrize("name", ["plot.gif", "plot", "plot.PN", "png"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str):
    with pytest.raises(InputError, match=r"unknown kind of plot[\s\S]*\.png, \.svg, \.pdf"):
        figure.save(document(chart()), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.parametrize("text", ["a$\\frac{$.npz", "$x_$", "a\x1b[31m.npz", "<b>&--> .npz"])
def test_names_are_drawn_as_they_are(tmp_path: Path, text: str, suffix: str):
    """No mathematics, no markup: a data file may have any name."""
    curve = Curve(text, [0, 1], [0, 1])
    hostile = Chart(
        text, Axis(text), Axis(text), [curve, curve], [Marks(text, "gn", [(0.5, True)])]
    )
    path = tmp_path / f"plot{suffix}"
    figure.save(document(hostile, hostile, title=text), path)
    if suffix == ".svg":
        ElementTree.parse(path)
