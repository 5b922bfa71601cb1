"""The JSON of a report: every key of the contract, and nothing that JSON does not know."""

import json
from dataclasses import replace
from typing import Any

import pytest

import hessdiag
from hessdiag import Estimate, Report
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.metadata import Provenance
from hessdiag.parts import PARTS
from hessdiag.reports.payload import dumps
from hessdiag.reports.spectrum import schema

ESTIMATE = {"value", "stderr", "ci95", "num_probes"}
CONTRACT = {
    "checkpoint": {"path", "sha256", "num_parameters"},
    "model": {"name", "activation", "beta", "trained_with"},
    "data": {"spec", "split", "num_samples", "sha256"},
    "loss": {"name", "value", "accuracy"},
    "settings": {
        "seed",
        "dtype",
        "device",
        "bn",
        "batch_size",
        "num_probes",
        "top_k",
        "params",
        "parts",
        "density",
        "eigenvectors",
        "per_layer",
        "rel_error",
        "max_probes",
        "depth",
        "basis_size",
        "block_size",
        "tolerance",
        "max_passes",
        "finite_radius",
    },
    "finite_radius": {"radius", "trace", "excess", "rounding"},
    "gradient": {"norm", "rayleigh"},
    "checks": {"decomposition_residual", "symmetry_residual"},
    "cost": {"seconds", "passes", "products", "peak_memory_bytes"},
}


def payload(report: Report, provenance: Provenance | None = None) -> dict[str, Any]:
    """Lay the report out and read it back, strictly."""
    text = dumps(schema.spectrum_json(report, provenance))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def with_part(report: Report, name: str, **changes: Any) -> Report:
    return replace(report, parts={**report.parts, name: replace(report.parts[name], **changes)})


def test_every_key_of_the_contract_is_there(report: Report, provenance: Provenance):
    found = payload(report, provenance)
    assert found.keys() == {"schema", "version", *CONTRACT, "parts", "notes"}
    assert found["schema"] == "hessdiag.spectrum/1"
    assert found["version"] == hessdiag.__version__
    for section, keys in CONTRACT.items():
        assert found[section].keys() == keys, section
    assert list(found["parts"]) == list(PARTS)
    for part in found["parts"].values():
        assert part.keys() == {"trace", "frobenius_norm", "top", "bottom", "density", "layers"}
        assert part["trace"].keys() == part["frobenius_norm"].keys() == ESTIMATE
        assert len(part["top"]) == len(part["bottom"]) == 3
        assert all(
            ritz.keys() == {"value", "residual", "converged"}
            for ritz in part["top"] + part["bottom"]
        )
        assert {"grid", "values", "bandwidth"} <= part["density"].keys()
        assert len(part["density"]["grid"]) == len(part["density"]["values"])
        assert [layer.keys() for layer in part["layers"].values()] == [{"trace"}] * 6
        assert part["layers"]["fc1.weight"]["trace"].keys() == ESTIMATE


def test_the_numbers_are_those_of_the_report(report: Report, provenance: Provenance):
    found = payload(report, provenance)
    for name, part in report.parts.items():
        laid = found["parts"][name]
        assert laid["trace"]["value"] == part.trace.value
        assert tuple(laid["trace"]["ci95"]) == part.trace.ci95
        assert laid["trace"]["num_probes"] == 8
        assert [ritz["value"] for ritz in laid["top"]] == [ritz.value for ritz in part.top]
        tops = [ritz["value"] for ritz in laid["top"]]
        bottoms = [ritz["value"] for ritz in laid["bottom"]]
        assert tops == sorted(tops, reverse=True)
        assert bottoms == sorted(bottoms)
        assert part.density is not None
        assert laid["density"]["values"] == part.density.values.tolist()
    assert found["checkpoint"] == {
        "path": "run/model.safetensors",
        "sha256": "c" * 64,
        "num_parameters": report.num_parameters,
    }
    model = {"name": "mlp-5-4", "activation": "beta_gelu", "beta": 2.0, "trained_with": None}
    assert found["model"] == model
    assert found["data"] == {
        "spec": "digits",
        "split": "train",
        "num_samples": 9,
        "sha256": "d" * 64,
    }
    assert found["settings"]["batch_size"] == 5
    assert found["loss"]["value"] == report.loss
    assert found["gradient"] == {"norm": report.gradient_norm, "rayleigh": report.rayleigh}
    assert found["cost"]["passes"]["total"] == report.cost.passes["total"]


def test_what_is_absent_is_null_and_has_a_note(sparse_report: Report):
    found = payload(sparse_report)
    (part,) = found["parts"].values()
    assert part["top"] == part["bottom"] == []
    assert "density" not in part
    assert "layers" not in part
    assert part["trace"]["stderr"] is part["trace"]["ci95"] is None
    assert part["trace"]["num_probes"] == 1
    assert found["loss"]["accuracy"] is None
    assert found["checks"]["symmetry_residual"] is None
    notes = " ".join(found["notes"])
    assert "one probe gives no standard error" in notes
    assert "no accuracy" in notes


def test_a_complete_report_has_nothing_to_note(report: Report):
    assert payload(report)["notes"] == []


def test_numbers_that_are_not_finite_become_null(report: Report):
    bad = with_part(
        report,
        "nme",
        trace=Estimate(float("nan"), float("inf"), (-float("inf"), float("inf")), 8),
        top=(RitzValue(float("inf"), float("nan"), converged=False),),
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"value": float("nan")})
    part = payload(bad)["parts"]["nme"]
    assert part["trace"] == {"value": None, "stderr": None, "ci95": [None, None], "num_probes": 8}
    assert part["top"] == [{"value": None, "residual": None, "converged": False}]


def test_notes_name_what_has_not_converged(report: Report):
    top, *rest = report.parts["gn"].top
    notes = payload(
        with_part(report, "gn", top=(top, *(replace(r, converged=False) for r in rest)))
    )
    (note,) = notes["notes"]
    assert "gn: 2 of 3 top eigenvalues not converged" in note


def test_notes_say_whether_the_wanted_error_was_reached(report: Report):
    asked = replace(report, settings=replace(report.settings, rel_error=0.25))
    for reached, words in ((True, "was reached with 8 probes"), (False, "all 8 probes spent")):
        found = payload(with_part(asked, "gn", target_reached=reached))
        assert found["parts"]["gn"]["trace"]["target_reached"] is reached
        assert found["parts"]["gn"]["trace"]["rel_error"] > 0
        (note,) = found["notes"]
        assert note.startswith("gn: ")
        assert words in note


def test_a_gradient_of_zero_has_no_direction(report: Report):
    found = payload(replace(report, rayleigh=dict.fromkeys(PARTS)))
    assert found["gradient"]["rayleigh"] == dict.fromkeys(PARTS)
    assert "rayleigh is null" in found["notes"][0]
