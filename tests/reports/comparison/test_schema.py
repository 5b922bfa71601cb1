"""The JSON of a comparison: every key, and nothing that JSON does not know."""

import json
from dataclasses import replace
from typing import Any

import pytest

from hessdiag import Comparison, Estimate
from hessdiag.parts import PARTS
from hessdiag.reports.comparison.schema import Provenances, comparison_json
from hessdiag.reports.payload import dumps

SIDE = {"checkpoint", "model", "data", "settings", "cost"}
CHANGE = {"a", "b", "difference", "relative_change", "significant"}


def payload(found: Comparison, provenances: Provenances = (None, None)) -> dict[str, Any]:
    """Lay the comparison out and read it back, strictly."""
    text = dumps(comparison_json(found, provenances))
    return json.loads(text, parse_constant=lambda name: pytest.fail(name))


def with_trace(found: Comparison, **changes: Any) -> Comparison:
    part = found.parts["gn"]
    changed = replace(part, trace=replace(part.trace, **changes))
    return replace(found, parts={**found.parts, "gn": changed})


def test_every_key_is_there(comparison: Comparison, provenances: Provenances):
    found = payload(comparison, provenances)
    sections = {"schema", "version", "a", "b", "paired", "loss", "accuracy", "parts", "notes"}
    assert found.keys() == sections
    assert found["schema"] == "hessdiag.compare/1"
    assert found["paired"] is True
    assert found["a"].keys() == found["b"].keys() == SIDE
    assert list(found["parts"]) == list(PARTS)
    for part in found["parts"].values():
        assert part.keys() == {"trace", "frobenius_norm", "top", "bottom", "overlap", "density"}
        changes = [part["trace"], part["frobenius_norm"], *part["top"], *part["bottom"]]
        assert len(changes) == 8
        assert all(change.keys() == CHANGE for change in changes)
        assert len(part["overlap"]["cosines"]) == 3
        assert part["density"].keys() == {"a", "b"}
    assert found["notes"] == []


def test_the_numbers_are_those_of_the_comparison(comparison: Comparison, provenances: Provenances):
    found = payload(comparison, provenances)
    for name, part in comparison.parts.items():
        laid = found["parts"][name]["trace"]
        assert laid["a"]["value"] == comparison.a.parts[name].trace.value
        assert laid["b"]["value"] == comparison.b.parts[name].trace.value
        assert laid["difference"]["value"] == part.trace.value
        assert laid["difference"]["error"] == part.trace.error
        assert laid["difference"]["interval"] == list(part.trace.interval or ())
        assert laid["relative_change"] == part.trace.relative
        assert laid["significant"] is part.trace.significant
    assert found["loss"]["difference"] == comparison.b.loss - comparison.a.loss
    assert found["a"]["checkpoint"]["path"] == "run/model.safetensors"
    assert found["b"]["checkpoint"]["path"] == "run/other.safetensors"
    spectrum = json.loads(comparison.b.of(provenances[1]).to_json())
    assert found["b"] == {key: spectrum[key] for key in SIDE}


def test_what_is_absent_is_null_and_has_a_note(sparse: Comparison):
    found = payload(sparse)
    part = found["parts"]["nme"]
    assert part["top"] == part["bottom"] == []
    assert part["overlap"] is part["density"] is None
    trace = part["trace"]
    assert trace["difference"] == {"value": 0.0, "error": None, "interval": None}
    assert trace["significant"] is None
    assert found["accuracy"] == {"a": None, "b": None, "difference": None}
    notes = " ".join(found["notes"])
    assert "one probe gives no standard error" in notes
    assert "no accuracy" in notes
    assert "eigenspace" not in notes


def test_an_arbitrary_eigenspace_has_a_note(comparison: Comparison):
    part = replace(comparison.parts["nme"], overlap=None)
    found = payload(replace(comparison, parts={"nme": part}))
    (note,) = found["notes"]
    assert note.startswith("nme: fewer than 3 eigenvalues can be told from zero")
    assert found["parts"]["nme"]["overlap"] is None


def test_eigenvalues_that_have_not_converged_have_a_note(comparison: Comparison):
    part = comparison.parts["gn"]
    top = (*part.top[:2], replace(part.top[2], interval=None))
    (note,) = payload(replace(comparison, parts={"gn": replace(part, top=top)}))["notes"]
    assert note.startswith("gn: 1 of 3 top eigenvalues not converged")


def test_of_reports_the_notes_say_what_is_lost(unpaired: Comparison):
    found = payload(unpaired)
    assert found["paired"] is False
    assert found["parts"]["gn"]["overlap"] is None
    (note,) = found["notes"]
    assert "reports hold no single probes" in note


def test_numbers_that_are_not_finite_become_null(comparison: Comparison):
    nan, inf = float("nan"), float("inf")
    bad = with_trace(comparison, a=Estimate(nan, inf, (-inf, inf), 8), value=nan, error=inf)
    trace = payload(bad)["parts"]["gn"]["trace"]
    assert trace["a"] == {"value": None, "stderr": None, "ci95": [None, None], "num_probes": 8}
    assert trace["difference"]["value"] is trace["difference"]["error"] is None
    assert trace["relative_change"] is None
