"""The JSON of matrix sensing: fixed keys, the numbers of the curves, nothing JSON does not know."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

import hessdiag
from hessdiag.reports.payload import dumps
from hessdiag.reports.sensing.schema import sensing_json
from hessdiag.training.sensing import METHODS, Sensing, Settings

KEYS = {"schema", "version", "checkpoint", "model", "data", "settings", "steps", "methods"}


def payload(found: Sensing) -> dict[str, Any]:
    """Lay it out and read it back, strictly."""
    return json.loads(dumps(sensing_json(found)), parse_constant=lambda name: pytest.fail(name))


def test_every_key_is_there(found: Sensing):
    laid_out = payload(found)
    assert laid_out.keys() == KEYS | {"cost", "notes"}
    assert laid_out["schema"] == "hessdiag.sensing/1"
    assert laid_out["version"] == hessdiag.__version__
    assert laid_out["settings"].keys() == {field.name for field in dataclasses.fields(Settings)}
    assert [method["name"] for method in laid_out["methods"]] == list(METHODS)
    for method in laid_out["methods"]:
        assert method.keys() == {"name", "loss", "relative_error", "trace"}
    assert laid_out["checkpoint"]["num_parameters"] == 36
    assert laid_out["data"]["num_samples"] == 12
    assert laid_out["notes"] == []


def test_the_numbers_are_those_of_the_curves(found: Sensing):
    laid_out = payload(found)
    assert laid_out["steps"] == list(range(41))
    for method in laid_out["methods"]:
        curves = found.curves[method["name"]]
        for name in ("loss", "relative_error", "trace"):
            assert method[name] == getattr(curves, name).tolist()
    assert laid_out["settings"]["num_pairs"] == 2


def test_the_device_is_the_one_used(found: Sensing):
    chosen = dataclasses.replace(found.settings, device="auto")
    laid_out = payload(dataclasses.replace(found, settings=chosen))
    assert laid_out["settings"]["device"] == "cpu"


def test_what_is_not_finite_is_null_and_noted(diverged: Sensing):
    laid_out = payload(diverged)
    method = laid_out["methods"][0]
    assert method["loss"][0] is not None
    assert method["loss"][-1] is None
    curves = diverged.curves["gd"]
    table = np.array([curves.loss, curves.relative_error, curves.trace])
    step = int(np.flatnonzero(~np.isfinite(table).all(0))[0])
    assert laid_out["notes"][0] == f"gradient descent has diverged by step {step}: null"
    assert len(laid_out["notes"]) == 3
