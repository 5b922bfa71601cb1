"""Readings from JSON reports: where metrics are, and what becomes of odd ones."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from hessdiag import InputError
from hessdiag.gates import readings
from hessdiag.linalg.trace import Estimate, Samples
from hessdiag.metrics import metric_table
from hessdiag.metrics.metric import Missing
from hessdiag.metrics.metric_reading import Reading
from hessdiag.metrics.norm_ratio import independent_ratio

ESTIMATE = {"value": 3.0, "stderr": 0.5, "ci95": [2.0, 4.5], "num_probes": 32}
TAKEN = Reading(3.0, 0.5, (2.0, 4.5), 32)
EIGENVALUE = {"value": 7.0, "residual": 0.25, "converged": False}
SPECTRUM: dict[str, Any] = {
    "schema": "hessdiag.spectrum/1",
    "loss": {"name": "mse", "value": 0.5, "accuracy": None},
    "gradient": {"norm": 2},
    "parts": {
        "nme": {
            "trace": ESTIMATE,
            "frobenius_norm": ESTIMATE,
            "top": [EIGENVALUE, {**EIGENVALUE, "value": 6.0}],
            "bottom": [],
            "layers": {"fc.weight": {"trace": ESTIMATE}},
        },
        "gn": {"trace": None, "frobenius_norm": {**ESTIMATE, "value": 2.5}},
    },
}
TRAIN: dict[str, Any] = {
    "schema": "hessdiag.train/1",
    "epochs": [
        {"train_loss": 9.0, "curvature": {"hessian.trace": {"value": 1.0}}},
        {
            "train_loss": 0.25,
            "validation_accuracy": 0.75,
            "test_accuracy": None,
            "curvature": {
                "hessian.lambda_max": {"value": 2.0, "error": 0.125, "ci95": None},
                "gn.trace": {"value": 3.0, "error": 0.5, "ci95": [2.0, 4.5], "num_probes": 32},
            },
        },
    ],
}
SPARSITY: dict[str, Any] = {
    "schema": "hessdiag.sparsity/1",
    "activations": [
        {"initial": {"total": {"nonzero": 0.5}}, "trained": {"total": {"nonzero": 0.75}}}
    ],
}
GATE: dict[str, Any] = {
    "schema": "hessdiag.gate/1",
    "readings": {
        "hessian.lambda_max": {"value": 2.0, "error": 0.125, "ci95": None, "num_probes": None},
        "nme_to_gn": {"value": 3.0, "error": 0.5, "ci95": [2.0, None], "num_probes": 32},
    },
}


@pytest.mark.parametrize(
    ("report", "name", "reading"),
    [
        (SPECTRUM, "nme.trace", TAKEN),
        (SPECTRUM, "nme.lambda_max", Reading(7.0, 0.25)),
        (SPECTRUM, "nme.top.1", Reading(6.0, 0.25)),
        (SPECTRUM, "nme.layers.fc.weight.trace", TAKEN),
        (SPECTRUM, "loss", Reading(0.5)),
        (SPECTRUM, "gradient.norm", Reading(2.0)),
        (TRAIN, "loss", Reading(0.25)),
        (TRAIN, "accuracy", Reading(0.75)),
        (TRAIN, "hessian.top.0", Reading(2.0, 0.125)),
        (TRAIN, "gn.trace", TAKEN),
        (SPARSITY, "sparsity.nonzero", Reading(0.75)),
        (GATE, "hessian.top.0", Reading(2.0, 0.125)),
        (GATE, "nme_to_gn", Reading(3.0, 0.5, (2.0, math.inf), 32)),
    ],
)
def test_metrics_are_found(report: dict[str, Any], name: str, reading: Reading):
    assert readings.read(report, name) == reading


def test_the_ratio_comes_from_both_norms():
    norms = [Estimate(value, 0.5, (2.0, 4.5), 32) for value in (3.0, 2.5)]
    assert readings.read(SPECTRUM, "nme_to_gn") == Reading.of(independent_ratio(*norms))


KEPT = {"quadratic_forms": [1, 2.5], "squared_norms": [3.0, 0]}


def test_samples_that_are_kept_come_along():
    whole, layer = Samples((1.0, 2.5), (3.0, 0.0)), Samples((5.0,), (6.0,))
    own = {"quadratic_forms": [5.0], "squared_norms": [6.0]}
    nme = {**SPECTRUM["parts"]["nme"], "samples": {**KEPT, "layers": {"fc.weight": own}}}
    report = {**SPECTRUM, "parts": {"nme": nme, "gn": {**nme, "samples": KEPT}}}
    found = [
        readings.read(report, name)
        for name in ("nme.trace", "nme.layers.fc.weight.trace", "nme_to_gn", "nme.lambda_max")
    ]
    assert all(isinstance(reading, Reading) for reading in found)
    samples = [reading.samples for reading in found if isinstance(reading, Reading)]
    assert samples == [{"nme": whole}, {"nme": layer}, {"nme": whole, "gn": whole}, None]
    gate = {**GATE, "readings": {"gn.trace": {**ESTIMATE, "samples": {"gn": KEPT}}}}
    reading = readings.read(gate, "gn.trace")
    assert isinstance(reading, Reading)
    assert reading.samples == {"gn": whole}


@pytest.mark.parametrize(
    "odd",
    [
        *(None, [], 3, {}),
        {**KEPT, "squared_norms": [3.0]},
        {**KEPT, "squared_norms": [3.0, -1.0]},
        {**KEPT, "squared_norms": [3.0, math.nan]},
        {"quadratic_forms": [], "squared_norms": []},
    ],
    ids=repr,
)
def test_damaged_samples_are_none(odd: Any):
    report = {**SPECTRUM, "parts": {"nme": {**SPECTRUM["parts"]["nme"], "samples": odd}}}
    assert readings.read(report, "nme.trace") == TAKEN


@pytest.mark.parametrize(
    ("report", "name", "words"),
    [
        (SPECTRUM, "gn.trace", "holds none, or null"),
        (SPECTRUM, "hessian.trace", "holds none"),
        (SPECTRUM, "nme.top.2", "holds none"),
        (SPECTRUM, "nme.lambda_min", "holds none"),
        (SPECTRUM, "nme.layers.fc.bias.trace", "holds none"),
        (SPECTRUM, "accuracy", "null"),
        (SPECTRUM, "sparsity.nonzero", "spectrum holds no such metric"),
        ({**SPECTRUM, "parts": {}}, "nme_to_gn", "nme.frobenius_norm: .*none"),
        (TRAIN, "hessian.trace", "not measured"),
        ({**TRAIN, "epochs": []}, "loss", "none"),
        (SPARSITY, "sparsity.above", "none"),
        (SPARSITY, "loss", "sparsity holds no such metric"),
        ({**SPARSITY, "activations": [{}, {}]}, "sparsity.nonzero", "several activations"),
        (GATE, "loss", "not measured"),
        ({**GATE, "readings": []}, "loss", "not measured"),
    ],
)
def test_metrics_that_a_report_does_not_hold(report: dict[str, Any], name: str, words: str):
    found = readings.read(report, name)
    assert isinstance(found, Missing)
    assert re.search(words, found.reason)


ODD = [
    *("a string", True, [], math.nan, math.inf, 10**400),
    *({"value": value, "stderr": 0.1} for value in ("x", math.nan, True, [1], None)),
    *({"value": 1.0, "stderr": error} for error in ("x", math.nan, -1.0)),
    *(
        {"value": 1.0, "stderr": 0.1, "ci95": ends, "num_probes": 3}
        for ends in ([2.0, 0.0], [0.0], "xy", [0.0, "x"], [math.nan, 1.0], 3)
    ),
    *({"value": 1.0, "ci95": [0.0, 2.0], "num_probes": count} for count in ("x", 0, -3, math.nan)),
]


@pytest.mark.parametrize("entry", ODD, ids=repr)
def test_odd_entries_are_no_readings(entry: Any):
    report = {**SPECTRUM, "parts": {"nme": {"trace": entry}}}
    assert isinstance(readings.read(report, "nme.trace"), Missing)


@pytest.mark.parametrize("name", metric_table.NAMES)
@pytest.mark.parametrize("schema", ["spectrum", "sparsity", "train", "gate"])
@pytest.mark.parametrize("odd", [None, [], {}, "x", 3, [None], {"nme": 3}], ids=repr)
def test_reports_of_odd_shapes_hold_nothing(schema: str, odd: Any, name: str):
    keys = ("parts", "loss", "gradient", "epochs", "activations", "readings")
    report = {"schema": f"hessdiag.{schema}/1", **dict.fromkeys(keys, odd)}
    found = readings.read(report, name)
    assert isinstance(found, Missing)


def test_reports_are_loaded(tmp_path: Path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(SPECTRUM))
    assert readings.load(str(path)) == SPECTRUM


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "the baseline .*No such file"),
        ("{", "cannot be read"),
        ("\xff", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("1" * 5000, "cannot be read"),
        ("[]", "unknown schema"),
        ("{}", "unknown schema.*None"),
        ('{"schema": ["x"]}', "unknown schema"),
        ('{"schema": "hessdiag.spectrum/2"}', "did you mean hessdiag.spectrum/1"),
        ('{"schema": "hessdiag.landscape/1"}', "hessdiag.spectrum/1, hessdiag.sparsity/1"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_files_that_are_no_reports(tmp_path: Path, text: str | None, words: str):
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text, "latin-1")
    with pytest.raises(InputError) as caught:
        readings.load(str(path), "baseline")
    assert re.search(words, str(caught.value), re.DOTALL), caught.value
