"""The spectrum's JSON: every key of the contract, its ranges, and what qualifies its numbers."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from hessdiag import InputError, Report, codec
from hessdiag.curvature.decomposition import PARTS
from hessdiag.spectra.spectrum_result import Loss, qualified
from tests.results import PROVENANCE, sparse_spectrum, spectrum

ESTIMATE = {"value", "stderr", "ci95", "num_probes"}
CONTRACT = {
    "checkpoint": {"path", "sha256", "num_parameters"},
    "model": {"name", "activation", "beta", "trained_with"},
    "data": {"spec", "split", "num_samples", "sha256"},
    "loss": {"name", "value", "accuracy"},
    "settings": {
        *("seed", "dtype", "device", "bn", "batch_size", "num_probes", "top_k", "params"),
        *("parts", "density", "eigenvectors", "per_layer", "rel_error", "max_probes", "depth"),
        *("ends", "basis_size", "block_size", "tolerance", "max_passes", "finite_radius"),
    },
    "finite_radius": {"radius", "trace", "excess", "rounding"},
    "gradient": {"norm", "rayleigh"},
    "checks": {"decomposition_residual", "symmetry_residual"},
    "cost": {"seconds", "passes", "products", "peak_memory_bytes", "predicted_memory_bytes"},
}


@pytest.fixture
def payload() -> dict[str, Any]:
    return json.loads(spectrum().of(PROVENANCE).to_json())


def with_part(report: Report, name: str, **changes: Any) -> Report:
    part = structs.replace(report.parts[name], **changes)
    return structs.replace(report, parts={**report.parts, name: part})


def test_every_key_of_the_contract_is_there(payload: dict[str, Any]):
    assert payload.keys() >= {"schema", "version", *CONTRACT, "parts", "notes"}
    for section, keys in CONTRACT.items():
        assert payload[section].keys() >= keys, section
    assert list(payload["parts"]) == list(PARTS)
    for part in payload["parts"].values():
        assert part.keys() >= {"trace", "frobenius_norm", "top", "bottom", "density", "layers"}
        assert part["trace"].keys() == part["frobenius_norm"].keys() == ESTIMATE
        for ritz in part["top"] + part["bottom"]:
            assert ritz.keys() >= {"value", "residual", "converged"}
        assert {"grid", "values", "bandwidth"} <= part["density"].keys()
        assert [layer.keys() for layer in part["layers"].values()] == [{"trace"}] * 6
        assert part["layers"]["fc1.weight"]["trace"].keys() == ESTIMATE


def test_the_numbers_are_those_of_the_report(payload: dict[str, Any]):
    report = spectrum()
    for name, part in report.parts.items():
        laid = payload["parts"][name]
        assert laid["trace"]["value"] == part.trace.value
        assert tuple(laid["trace"]["ci95"]) == part.trace.ci95
        assert [ritz["value"] for ritz in laid["bottom"]] == [ritz.value for ritz in part.bottom]
        assert part.density is not None
        assert laid["density"]["values"] == part.density.values.tolist()
        assert part.layers is not None
        assert laid["layers"]["fc1.bias"]["trace"]["value"] == part.layers["fc1.bias"].value
    assert payload["settings"]["batch_size"] == 5
    assert payload["loss"] == {
        **{"name": report.loss_name, "value": report.loss, "accuracy": report.accuracy}
    }
    assert payload["gradient"] == {"norm": report.gradient_norm, "rayleigh": report.rayleigh}
    assert payload["notes"] == []


def test_what_is_absent_is_null_and_has_a_note():
    found = json.loads(sparse_spectrum().to_json())
    (part,) = found["parts"].values()
    assert part["top"] == part["bottom"] == []
    assert not {"density", "layers"} & part.keys()
    assert part["trace"]["stderr"] is part["trace"]["ci95"] is None
    assert found["loss"]["accuracy"] is None
    assert found["checks"]["symmetry_residual"] is None
    notes = " ".join(found["notes"])
    assert "one probe gives no standard error" in notes
    assert "no accuracy" in notes


def test_what_is_kept_in_memory_is_not_written():
    report = sparse_spectrum()
    found = codec.decode(Report, report.to_json())
    assert found.parts["nme"].samples == report.parts["nme"].samples
    assert found.parts["nme"].eigenvectors is None


def test_notes_name_what_has_not_converged():
    top, *rest = spectrum().parts["gn"].top
    missed = with_part(spectrum(), "gn", top=(top, *(replace(r, converged=False) for r in rest)))
    assert qualified(missed).notes[0].startswith("gn: 2 of 3 top eigenvalues not converged")


def test_notes_say_whether_the_wanted_error_was_reached():
    asked = structs.replace(spectrum(), settings=replace(spectrum().settings, rel_error=0.25))
    trace = spectrum().parts["gn"].trace
    for reached, words in ((True, "was reached with 16 probes"), (False, "all 16 probes spent")):
        told = with_part(asked, "gn", trace=type(trace).of(trace, reached))
        found = json.loads(qualified(told).to_json())
        assert found["parts"]["gn"]["trace"]["target_reached"] is reached
        assert found["parts"]["gn"]["trace"]["rel_error"] == trace.rel_error
        assert words in found["notes"][0]


def test_a_gradient_of_zero_has_no_direction():
    gradient = structs.replace(spectrum().gradient, rayleigh=dict.fromkeys(PARTS))
    found = qualified(structs.replace(spectrum(), gradient=gradient))
    assert "rayleigh is null" in found.notes[0]


def test_targets_that_are_no_classes_have_no_accuracy():
    found = qualified(structs.replace(spectrum(), risk=Loss("mse", 1.0, None)))
    assert "so there is no accuracy" in found.notes[0]


def at(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Put ``value`` in the place of what lies at ``keys``."""

    def change(payload: dict[str, Any]) -> None:
        for key in keys[:-1]:
            payload = payload[key]
        payload[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (at("parts", value={"curl": {}}), r"parts\[...\]"),
        (at("parts", "gn", "trace", "stderr", value=-1), "trace.stderr"),
        (at("parts", "gn", "trace", "num_probes", value=-1), "trace.num_probes"),
        (at("parts", "gn", "top", value=[3]), r"top\[0\]"),
        (at("parts", "gn", "density", "nodes", value=[]), "a density has no nodes"),
        (at("parts", "gn", "density", "weights", value=[1.0]), "a density has no nodes"),
        (at("parts", "gn", "layers", "fc1.bias", value=2), r"layers\[...\]"),
        (at("checkpoint", value=3), "checkpoint"),
        (at("settings", "num_probes", value=0), "`num_probes` is out of range"),
        (at("loss", value=None), "loss"),
    ],
)
def test_what_does_not_fit_is_named(payload: dict[str, Any], change, words: str):
    change(payload)
    with pytest.raises(InputError, match=f"the report is damaged: .*{words}"):
        codec.decode(Report, json.dumps(payload))


def test_an_unknown_part_is_refused(payload: dict[str, Any]):
    payload["parts"]["curl"] = payload["parts"]["gn"]
    with pytest.raises(InputError, match="damaged: unknown part"):
        codec.decode(Report, json.dumps(payload))
