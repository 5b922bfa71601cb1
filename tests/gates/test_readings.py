"""Readings from results: where metrics are, and what is said of those that are not there."""

import dataclasses
import json
import math
import re
from typing import Any

import pytest
from msgspec import structs

from hessdiag import GateReport, InputError, Report, codec, results
from hessdiag.gates import readings
from hessdiag.metrics import metric_table
from hessdiag.metrics.metric import Missing
from hessdiag.metrics.metric_reading import Reading
from tests.results import RESULTS, spectrum


def stored(name: str) -> Any:
    """Give a result as its file gives it back."""
    return results.taken(json.loads(RESULTS[name]().to_json()), *readings.KINDS)


@pytest.mark.parametrize("name", [*metric_table.NAMES, "nme.layers.fc2.weight.trace", "gn.top.2"])
def test_a_file_tells_of_a_spectrum_what_the_spectrum_tells(name: str):
    metric = metric_table.parse(name)
    reading = readings.read(stored("spectrum"), name)
    assert reading == metric.read(spectrum())
    assert isinstance(reading, Reading)
    assert (reading.samples is not None) == metric.is_sampled


def test_a_run_is_as_after_its_last_epoch():
    run = stored("train")
    last = run.epochs[-1]
    assert readings.read(run, "loss") == Reading(last.train_loss)
    assert readings.read(run, "accuracy") == Reading(last.test_accuracy)
    tracked = {name: readings.read(run, name) for name in last.curvature}
    assert tracked == last.curvature != {}


def test_sparsity_is_that_of_the_trained_network():
    report = stored("sparsity")
    (study,) = report.activations
    assert study.initial.total != study.trained.total
    for share in ("nonzero", "above"):
        wanted = Reading(getattr(study.trained.total, share))
        assert readings.read(report, f"sparsity.{share}") == wanted
    alone = stored("sparsity, alone")
    assert readings.read(alone, "sparsity.nonzero") == Reading(
        alone.activations[0].initial.total.nonzero
    )


def test_a_gate_keeps_its_readings_under_any_of_their_names():
    gate = GateReport.judged(
        (),
        RESULTS["gate"]().settings,
        {"hessian.lambda_max": Reading(2.0, 0.125)},  # pyright: ignore
    )
    assert readings.read(gate, "hessian.top.0") == Reading(2.0, 0.125)


def test_an_end_that_is_infinite_comes_back():
    payload = json.loads(RESULTS["gate"]().to_json())
    name = next(name for name, entry in payload["readings"].items() if entry["ci95"])
    payload["readings"][name]["ci95"][1] = None
    reading = readings.read(codec.decode(GateReport, json.dumps(payload)), name)
    assert isinstance(reading, Reading)
    assert reading.ci95 is not None
    assert reading.ci95[1] == math.inf


@pytest.mark.parametrize(
    ("name", "metric", "words"),
    [
        ("spectrum", "nme.top.9", "there are 3 top eigenvalues"),
        ("spectrum", "nme.layers.none.trace", "no such parameter"),
        ("spectrum", "sparsity.nonzero", "spectrum holds no such metric"),
        ("spectrum, sparse", "gn.trace", "does not hold the part gn"),
        ("spectrum, sparse", "accuracy", "not classes"),
        ("spectrum, sparse", "nme.lambda_max", "there are 0"),
        ("train", "nme.layers.x.trace", "not measured"),
        ("train, bare", "accuracy", "not measured"),
        ("sparsity", "loss", "sparsity holds no such metric"),
        ("sparsity, by β", "sparsity.nonzero", "several activations"),
        ("gate, without limits", "loss", "not measured"),
    ],
)
def test_metrics_that_a_report_does_not_hold(name: str, metric: str, words: str):
    reading = readings.read(stored(name), metric)
    assert isinstance(reading, Missing)
    assert re.search(words, reading.reason), reading


def test_what_is_null_is_missing():
    run = stored("train")
    broken = structs.replace(run, epochs=(dataclasses.replace(run.epochs[0], train_loss=math.nan),))
    again = results.taken(json.loads(broken.to_json()), *readings.KINDS)
    assert readings.read(again, "loss") == Missing("the report holds none, or null")


def test_a_report_is_taken_in_any_form(tmp_path: Any):
    path = tmp_path / "report.json"
    path.write_text(spectrum().to_json())
    assert results.taken(str(path), Report).to_json() == spectrum().to_json()
    assert results.taken(spectrum(), Report) is spectrum()
    for odd in (RESULTS["landscape"](), json.loads(RESULTS["landscape"]().to_json())):
        with pytest.raises(InputError, match="unknown schema of the baseline"):
            results.taken(odd, *readings.KINDS, what="the baseline")
