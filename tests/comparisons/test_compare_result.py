"""The comparison's JSON: every key, and what qualifies its numbers."""

import json
from typing import Any

import pytest
from msgspec import structs

from hessdiag import Comparison, InputError, codec
from hessdiag.comparisons.compare_result import Change, Difference
from hessdiag.linalg.trace import Estimate
from hessdiag.parts import PARTS
from tests.results import OTHER, PROVENANCE, RESULTS, comparison, sparse_comparison

SIDE = {"checkpoint", "model", "data", "settings", "cost"}
CHANGE = {"a", "b", "difference", "relative_change", "significant"}


def payload(found: Comparison) -> dict[str, Any]:
    return json.loads(found.to_json())


def test_every_key_is_there():
    found = payload(comparison().located(PROVENANCE, OTHER))
    sections = {"schema", "version", "a", "b", "paired", "loss", "accuracy", "parts"}
    sections |= {"metrics", "notes"}
    assert found.keys() == sections
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


def test_the_numbers_are_those_of_both_spectra():
    whole = comparison().located(PROVENANCE, OTHER)
    found = payload(whole)
    for name, part in whole.parts.items():
        laid = found["parts"][name]["trace"]
        assert laid["a"]["value"] == whole.a.parts[name].trace.value
        assert laid["b"]["value"] == whole.b.parts[name].trace.value
        assert laid["difference"]["interval"] == list(part.trace.interval or ())
    assert found["loss"]["difference"] == whole.b.loss - whole.a.loss
    assert found["a"]["checkpoint"]["path"] == "run/model.safetensors"
    spectrum = json.loads(whole.b.of(OTHER).to_json())
    assert found["b"] == {key: spectrum[key] for key in SIDE}


@pytest.mark.parametrize(
    ("interval", "significant"), [((1.0, 2.0), True), ((-1.0, 2.0), False), (None, None)]
)
def test_a_change_is_significant_where_its_interval_excludes_zero(interval, significant):
    a, b = Estimate(-4.0, 0.1, None, 8), Estimate(-2.5, 0.1, None, 8)
    change = Change.of(a, b, Difference(1.5, 0.2, interval))
    assert change.significant is significant
    assert change.relative == 1.5 / 4.0
    assert Change.of(structs.replace(a, value=0.0), b, change.difference).relative is None


def test_what_is_absent_is_null_and_has_a_note():
    found = payload(sparse_comparison())
    part = found["parts"]["nme"]
    assert part["top"] == part["bottom"] == []
    assert part["overlap"] is part["density"] is None
    assert part["trace"]["difference"] == {"value": 0.0, "error": None, "interval": None}
    assert found["accuracy"] == {"a": None, "b": None, "difference": None}
    notes = " ".join(found["notes"])
    assert "one probe gives no standard error" in notes
    assert "no accuracy" in notes
    assert "eigenspace" not in notes


def again(**changes: Any) -> Comparison:
    """The comparison with its part G changed."""
    whole = comparison()
    part = structs.replace(whole.parts["gn"], **changes)
    return Comparison.of(whole.a, whole.b, {"gn": part}, {}, paired=True)


def test_eigenvalues_that_have_not_converged_have_a_note():
    *known, last = comparison().parts["gn"].top
    missed = structs.replace(last, difference=structs.replace(last.difference, interval=None))
    (note,) = again(top=(*known, missed)).notes
    assert note.startswith("gn: 1 of 3 top eigenvalues not converged")


def test_of_reports_the_notes_say_what_is_lost():
    found = payload(RESULTS["compare, of reports"]())  # type: ignore[arg-type]
    assert found["paired"] is True
    assert found["parts"]["gn"]["overlap"] is None
    assert "reports hold no eigenvectors" in found["notes"][0]


def test_a_comparison_from_a_file_has_no_full_spectra():
    found = codec.decode(Comparison, comparison().to_json())
    with pytest.raises(InputError, match="does not hold both spectra"):
        _ = found.a
