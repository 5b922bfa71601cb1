"""The report of a run as JSON."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from hessdiag.metrics.metric_reading import Reading
from hessdiag.reports import payload
from hessdiag.reports.training.schema import train_payload
from hessdiag.training.history import Finished
from tests.cli.test_docs import JSON, documented, keys


def laid_out(found: Finished) -> dict[str, Any]:
    text = payload.dumps(train_payload(found))
    return json.loads(text, parse_constant=lambda name: pytest.fail(name))


def test_it_says_what_it_is_of(found: Finished):
    report = laid_out(found)
    assert report["schema"] == "hessdiag.train/1"
    assert report["checkpoint"] == {
        "path": "run/model.safetensors",
        "sha256": None,
        "num_parameters": 1210,
    }
    model = {"name": "mlp-16", "activation": "beta_gelu", "beta": 2.0, "trained_with": None}
    assert report["model"] == model
    data = {"spec": "digits", "split": "train", "num_samples": 300, "sha256": "d" * 64}
    assert report["data"] == data


def test_it_says_what_it_is_made_of(found: Finished):
    report = laid_out(found)
    assert report["regulariser"]["name"] == "nso"
    assert report["regulariser"]["strengths"]["num_pairs"] == 1
    assert report["recipe"]["name"] == "digits-wrn10-1"
    assert report["recipe"]["lr"] == found.config.recipe.lr
    assert report["settings"]["track"] == [*found.config.track]
    assert report["settings"]["log_every"] == 5
    assert not {"recipe", "regulariser", "strengths"} & {*report["settings"]}


def test_it_holds_the_epochs(found: Finished):
    report = laid_out(found)
    assert [row["number"] for row in report["epochs"]] == [1, 2, 3, 4]
    assert report["epochs"][0]["curvature"] == {}
    trace = {"value": 30.0, "error": 2.0, "ci95": [26.0, 34.0], "num_probes": None, "samples": None}
    assert report["epochs"][1]["curvature"]["hessian.trace"] == trace
    assert report["epochs"][1]["num_skipped"] == 1
    assert report["best_epoch"] == 2


def test_it_holds_the_bound_and_the_cost(found: Finished):
    report = laid_out(found)
    bound = found.pac_bayes
    assert bound is not None
    assert report["pac_bayes"] == {
        "value": bound.value,
        "at_least": bound.at_least,
        "complexity": bound.complexity,
        "empirical_loss": 0.5,
        "alpha": {"value": 30.0, "stderr": 2.0, "ci95": [26.0, 34.0], "num_probes": 8},
        "loss_bound": 2.0,
        "radius": 4.0,
        "num_train": 270,
        "epsilon": 0.1,
    }
    assert report["cost"] == {
        "seconds": 12.34,
        "images_per_second": 567.8,
        "peak_memory_bytes": 3 << 29,
        "num_processes": 2,
        "device": "cuda:0",
    }


def test_what_is_absent_is_null(bare: Finished):
    report = laid_out(bare)
    assert report["best_epoch"] is None
    assert report["pac_bayes"] is None
    assert {row["test_accuracy"] for row in report["epochs"]} == {None}


def test_numbers_that_are_not_finite_are_null(found: Finished):
    last = replace(
        found.epochs[-1], train_loss=math.nan, curvature={"nme.trace": Reading(math.inf, math.nan)}
    )
    (row,) = laid_out(replace(found, epochs=(last,), seconds=math.inf))["epochs"]
    assert row["train_loss"] is None
    assert set(row["curvature"]["nme.trace"].values()) == {None}


def test_every_key_is_documented(found: Finished):
    report = laid_out(found)
    assert keys(report) <= documented(report["schema"]), keys(report) - documented(report["schema"])
    assert "`hessdiag.train/1`" in JSON
