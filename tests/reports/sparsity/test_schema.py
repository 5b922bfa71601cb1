"""The sparsity report as JSON."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from hessdiag import __version__
from hessdiag.metadata import Provenance
from hessdiag.reports.payload import dumps
from hessdiag.reports.sparsity.schema import notes, sparsity_json
from hessdiag.sparsities.studies import Study
from tests.reports.sparsity.conftest import make

FIELDS = {"activation", "beta", "profile", "initial", "trained"}
CALL = {
    *("name", "function", "closed_form", "mean", "std", "peak", "histogram", "curve", "layers"),
    *("num_preactivations", "nonzero", "above", "mean_abs"),
}


def payload(studies: list[Study], provenance: Provenance) -> dict[str, Any]:
    text = dumps(sparsity_json(studies, provenance, seed=3, num_probes=4))
    return json.loads(text, parse_constant=lambda name: pytest.fail(name))


def test_the_layout(checkpoint: list[Study], provenance: Provenance):
    found = payload(checkpoint, provenance)
    assert (found["schema"], found["version"]) == ("hessdiag.sparsity/1", __version__)
    assert found["checkpoint"]["num_parameters"] == 64
    model = {"name": "mlp-5-4", "activation": "beta_gelu", "beta": 2.0, "trained_with": None}
    assert found["model"] == model
    assert found["data"]["num_samples"] == 9
    assert found["settings"] == {
        "threshold": 1e-3,
        "seed": 3,
        "dtype": "float64",
        "device": "cpu",
        "bn": "eval",
        "batch_size": 5,
        "num_probes": 4,
    }
    (study,) = found["activations"]
    assert study.keys() == FIELDS
    assert study["trained"].keys() == {"total", "calls", "block_norms"}
    for call in study["trained"]["calls"]:
        assert call.keys() == CALL
        assert len(call["histogram"]["edges"]) == len(call["histogram"]["counts"]) + 1
        assert len(call["curve"]) == len(call["histogram"]["counts"])
    assert study["trained"]["block_norms"]["fc1.weight"].keys() >= {"value", "stderr"}
    assert found["cost"]["seconds"] > 0
    assert found["notes"] == []


def test_numbers_are_those_of_the_studies(sweep: list[Study], provenance: Provenance):
    found = payload(sweep, provenance)["activations"]
    assert [study["beta"] for study in found] == [1.0, 5.0, 100.0]
    for own, study in zip(sweep, found, strict=True):
        assert own.trained is not None
        assert own.profile is not None
        assert study["trained"]["total"]["above"] == own.trained.total.above
        assert study["profile"]["peak"] == own.profile.peak
        assert [g["std"] for g in study["profile"]["gaussian"]] == [
            g.std for g in own.profile.gaussian
        ]


def test_what_is_absent_is_null(alone: list[Study], mixed, provenance: Provenance):
    (study,) = payload(alone, provenance)["activations"]
    assert study["trained"] is None
    assert study["initial"]["block_norms"] is None
    (study,) = payload(mixed, provenance)["activations"]
    assert study["activation"] is study["profile"] is study["beta"] is None
    assert [call["curve"] is None for call in study["trained"]["calls"]] == [True, False]


def test_infinite_ends_are_null_and_noted(provenance: Provenance):
    study = make("squared_relu")
    found = payload([study], provenance)
    assert found["activations"][0]["profile"]["nonzero"][0]["high"] is None
    (note,) = found["notes"]
    assert "null ends an interval" in note


def test_numbers_that_are_not_finite_are_null(checkpoint: list[Study], provenance: Provenance):
    (study,) = checkpoint
    assert study.trained is not None
    broken = replace(study.trained, total=replace(study.trained.total, mean_abs=math.nan))
    found = payload([replace(study, trained=broken)], provenance)
    assert found["activations"][0]["trained"]["total"]["mean_abs"] is None


def test_numerical_derivatives_are_noted_once(mixed: list[Study]):
    (note,) = notes(mixed * 2)
    assert note.startswith("φ'' of hardswish (2 calls) is not known in closed form")


def test_notes_of_the_network_are_kept(alone: list[Study]):
    (study,) = alone
    assert study.initial is not None
    noted = replace(study, initial=replace(study.initial, notes=("lstm unseen",)))
    assert notes([noted, noted]) == ["lstm unseen"]
