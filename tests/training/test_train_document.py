"""A run laid out for people: what each medium draws is what the result holds."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from hessdiag.show.document import Quantity, Share, Table
from hessdiag.training import methods, train_result
from hessdiag.training.history import Epoch
from hessdiag.training.train_result import TrainReport
from tests.runs import CURVATURE, EPOCHS, bare, finished


def rows(report: TrainReport, heading: str) -> list[list[Any]]:
    (block,) = (block for block in report.document().blocks if block.heading == heading)
    (table,) = (item for item in block.items if isinstance(item, Table))
    return [list(row.cells) for row in table.rows]


def test_every_epoch_has_a_row_and_the_best_is_marked():
    report = train_result.report(finished())
    table = rows(report, "Epochs")
    assert [row[0] for row in table] == ["1", "2, best", "3", "4"]
    for epoch, row in zip(EPOCHS, table, strict=True):
        assert row[1] == Quantity(epoch.train_loss)
        accuracies = (epoch.train_accuracy, epoch.validation_accuracy, epoch.test_accuracy)
        assert row[2:5] == [Share(accuracy) for accuracy in accuracies]
    assert table[1][5] == Quantity(CURVATURE["hessian.trace"].value, 2.0)
    assert table[0][5] == ""


def test_the_curves_are_those_of_the_epochs():
    charts = {chart.title: chart for chart in train_result.report(finished()).document().charts()}
    (loss,) = charts["training loss"].curves
    np.testing.assert_array_equal(loss.y, [epoch.train_loss for epoch in EPOCHS])
    assert [c.label for c in charts["accuracy, %"].curves] == ["train", "validation", "test"]
    np.testing.assert_allclose(charts["accuracy, %"].curves[2].y, [35, 65, 55, 50])
    traces = charts["trace"].curves
    assert [curve.label for curve in traces] == [
        "Hessian H",
        "Gauss-Newton G",
        "perturbation.trace",
    ] or len(traces) == 2
    assert traces[0].errors is not None
    np.testing.assert_array_equal(traces[0].errors, [2.0, 2.0])
    assert "sparsity nonzero" in charts


def test_the_headline_tells_the_method_with_its_options_alone():
    config = dataclasses.replace(
        finished().config,
        recipe=dataclasses.replace(
            finished().config.recipe, method=methods.NSO(sigma2=0.01, num_pairs=3)
        ),
    )
    report = train_result.report(dataclasses.replace(finished(), config=config))
    title = report.document().title
    assert title.startswith("mlp-16 beta_gelu(2) on digits (train), nso, ")
    assert "= 0.01" in title
    assert "= 3" in title
    assert "ρ" not in title
    assert report.recipe["strengths"] == []
    assert report.regulariser.strengths["num_pairs"] == 3
    told = " ".join(train_result.report(finished()).document().headline)
    assert "best: 60.00% in epoch 2" in told
    assert "hessian.trace: 30.0 ± 2.0" in told


def test_what_is_absent_is_left_out():
    document = train_result.report(bare()).document()
    assert [block.heading for block in document.blocks] == ["Curves", "Epochs"]
    assert len(document.charts()) == 2
    assert "in 2 processes" in train_result.report(finished()).document().footer[0]
    assert "processes" not in document.footer[0]


def test_a_run_under_way_says_so():
    report = train_result.unfinished(finished().config, EPOCHS[:2])
    assert "the run is not finished: 2 of 15 epochs" in report.notes
    assert report.document().footer == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_epoch_without_a_loss_comes_back(value: float):
    epoch = dataclasses.replace(EPOCHS[0], train_loss=value)
    report = train_result.report(dataclasses.replace(finished(), epochs=(epoch,)))
    again = Epoch.from_row({**EPOCHS[0].to_row(), "train_loss": None})
    assert np.isnan(again.train_loss)
    assert '"train_loss": null' in report.to_json()
    assert report.document().charts()
