"""The curves of a run."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.axes import Axes

from hessdiag.metrics.metric_reading import Reading
from hessdiag.reports import figures
from hessdiag.reports.training.plot import curves_figure
from hessdiag.training.history import Epoch, Finished


def panels(epochs: tuple[Epoch, ...]) -> dict[str, Axes]:
    """Name the panels that show something by their axis."""
    return {axes.get_ylabel(): axes for axes in curves_figure(epochs).axes if axes.axison}


def labels(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def test_loss_and_accuracies(found: Finished):
    shown = panels(found.epochs)
    (loss,) = shown["training loss"].lines
    assert list(loss.get_xdata()) == [1, 2, 3, 4]
    assert list(loss.get_ydata()) == [2.0, 1.0, 0.5, 0.25]
    assert shown["training loss"].get_yscale() == "log"
    accuracy = shown["accuracy, %"]
    assert labels(accuracy) == ["train", "validation", "test"]
    assert list(accuracy.lines[2].get_ydata()) == pytest.approx([35, 65, 55, 50])


def test_metrics_of_one_quantity_share_a_panel(found: Finished):
    shown = panels(found.epochs)
    assert [*shown][2:] == ["trace", "lambda max", "sparsity nonzero"]
    assert labels(shown["trace"]) == ["hessian", "gn", "perturbation"]
    assert labels(shown["lambda max"]) == []
    line, _, (bars,) = shown["trace"].containers[0].lines
    assert list(line.get_xdata()) == [2, 4]  # the epochs that were measured
    assert list(line.get_ydata()) == [30, 30]
    assert [list(segment[:, 1]) for segment in bars.get_segments()] == [[28, 32], [28, 32]]
    assert line.get_color() == figures.COLOURS["hessian"]
    assert all(axes.get_xlabel() == "epoch" for axes in shown.values())


def test_without_metrics_there_are_two_panels(bare: Finished):
    figure = curves_figure(bare.epochs)
    assert len(figure.axes) == 2
    assert labels(figure.axes[1]) == ["train"]
    assert figure.get_size_inches()[1] == pytest.approx(3.2)


def test_an_odd_number_of_panels_leaves_one_empty(found: Finished):
    figure = curves_figure(found.epochs)
    assert [axes.axison for axes in figure.axes] == [True] * 5 + [False]


@pytest.mark.parametrize(
    ("values", "scale"),
    [((1.0, 100.0), "log"), ((1.0, 2.0), "linear"), ((-1.0, 100.0), "linear"), ((0, 9), "linear")],
)
def test_a_wide_span_of_numbers_above_zero_is_logarithmic(
    found: Finished, values: tuple[float, float], scale: str
):
    epochs = tuple(
        replace(epoch, curvature={"nme.trace": Reading(value, 0.1)})
        for epoch, value in zip(found.epochs, values, strict=False)
    )
    assert panels(epochs)["trace"].get_yscale() == scale


def test_gaps_and_numbers_that_are_not_finite_can_be_drawn(found: Finished, tmp_path: Path):
    first, *_ = found.epochs
    strange = replace(
        first,
        number=2,
        train_loss=math.nan,
        validation_accuracy=None,
        curvature={"gn.trace": Reading(math.nan, math.nan), "nme.top.3": Reading(1.0, None)},
    )
    for number, epochs in enumerate([(first,), (strange,), (first, strange), ()]):
        figures.save(curves_figure(epochs), tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")
