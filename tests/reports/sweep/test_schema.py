"""The JSON of a sweep: fixed keys, spreads, reasons for what is missing."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from hessdiag.reports.payload import dumps
from hessdiag.reports.sweep.schema import notes, sweep_json
from hessdiag.training.trials import Sweep

CELL = {
    *("name", "method", "activation", "beta", "strengths", "best"),
    *("accuracy", "best_accuracy", "train_loss", "curvature", "runs"),
}


def payload(found: Sweep) -> dict[str, Any]:
    """Lay the sweep out and read it back, strictly."""
    return json.loads(dumps(sweep_json(found)), parse_constant=lambda name: pytest.fail(name))


def test_every_key_is_there(complete: Sweep):
    found = payload(complete)
    origin = {"schema", "version", "checkpoint", "model", "data"}
    assert found.keys() == origin | {"kind", "settings", "cells", "notes"}
    assert (found["schema"], found["kind"]) == ("hessdiag.sweep/1", "sweep")
    assert found["settings"] == {
        "recipe": "digits-wrn10-1",
        "model": "mlp-8",
        "data": "digits",
        "num_samples": None,
        "epochs": 1,
        "batch_size": 64,
        "lr": 0.1,
        "seeds": [0, 1],
    }
    assert all(cell.keys() == CELL for cell in found["cells"])
    assert found["notes"] == []


def test_the_numbers_are_those_of_the_cells(complete: Sweep):
    cells = payload(complete)["cells"]
    (top,) = [cell for cell in cells if cell["best"] and cell["method"] == "grad-penalty"]
    assert top["strengths"] == {"rho": 0.1}
    deviation = 0.1 / math.sqrt(2)
    assert top["accuracy"] == pytest.approx({"mean": 0.95, "std": deviation, "count": 2})
    assert top["train_loss"] == pytest.approx({"mean": 0.05, "std": deviation, "count": 2})
    trace = top["curvature"]["hessian.trace"]
    assert trace == pytest.approx({"mean": 9.5, "std": 10 * deviation, "count": 2})
    assert top["runs"][0] == {
        "name": "grad-penalty-gelu-rho=0.1-beta=None-seed=0",
        "seed": 0,
        "status": "finished",
        "accuracy": 0.9,
        "best_accuracy": 0.9,
        "train_loss": pytest.approx(0.1),
        "failure": None,
    }


def test_what_is_missing_is_null_and_has_a_reason(broken: Sweep):
    found = payload(broken)
    failed, half, waiting = found["cells"]
    assert failed["accuracy"] is waiting["accuracy"] is None
    assert half["accuracy"] == {"mean": 0.5, "std": None, "count": 1}
    assert [run["status"] for run in half["runs"]] == ["finished", "failed"]
    assert {run["status"] for run in waiting["runs"]} == {"waiting"}
    assert found["notes"] == [
        "sam-gelu-rho=1.0-beta=None-seed=0 failed: training diverged: not finite in step 3 of 4",
        "sam-gelu-rho=1.0-beta=None-seed=1 failed: training diverged: not finite in step 3 of 4",
        "sam-gelu-rho=2.0-beta=None-seed=1 failed: training diverged: not finite in step 3 of 4",
        "not finished yet: 2 of 6 runs",
    ]


def test_a_number_that_is_not_finite_is_null_and_out_of_the_mean(complete: Sweep):
    (first, *others) = complete.cells
    trial = first.trials[0]
    bad = replace(trial, epochs=[replace(trial.epochs[0], train_loss=math.nan)])
    found = payload(Sweep([replace(first, trials=[bad, first.trials[1]]), *others]))
    assert found["cells"][0]["train_loss"] == {"mean": pytest.approx(0.16), "std": None, "count": 1}
    assert found["cells"][0]["runs"][0]["train_loss"] is None


@pytest.mark.parametrize(
    ("validation", "words"),
    [(0.5, "accuracies are of the examples held out"), (None, "there is no accuracy")],
)
def test_a_missing_test_split_is_noted(complete: Sweep, validation: float | None, words: str):
    cell = complete.cells[0]
    trials = [
        replace(
            trial,
            epochs=[
                replace(epoch, test_accuracy=None, validation_accuracy=validation)
                for epoch in trial.epochs
            ],
        )
        for trial in cell.trials
    ]
    (note,) = notes(Sweep([replace(cell, trials=trials)]))
    assert note.startswith("there is no test split")
    assert words in note
