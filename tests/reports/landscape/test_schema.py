"""The JSON of a landscape: fixed keys, tables of the grid's shape, nothing JSON does not know."""

import json
from typing import Any

import pytest

import hessdiag
from hessdiag import Landscape
from hessdiag.metadata import Provenance
from hessdiag.reports.landscape import schema
from hessdiag.reports.payload import dumps

CONTRACT = {
    "checkpoint": {"path", "sha256", "num_parameters"},
    "model": {"name", "activation", "beta", "trained_with"},
    "data": {"spec", "split", "num_samples", "sha256"},
    "loss": {"name"},
    "settings": {
        "resolution",
        "radius",
        "num_probes",
        "seed",
        "dtype",
        "device",
        "bn",
        "batch_size",
        "params",
    },
    "plane": {"kind", "labels", "eigenvalues"},
    "axes": {"a", "b"},
    "cost": {"seconds", "num_points", "peak_memory_bytes"},
}
SURFACE = {"activation", "beta", "origin", "loss", "gn_norm", "nme_norm"}
FULL = {"gn_full", "nme_full"}


def payload(found: Landscape, provenance: Provenance | None = None) -> dict[str, Any]:
    """Lay the landscape out and read it back, strictly."""
    text = dumps(schema.landscape_json(found, provenance))
    return json.loads(text, parse_constant=lambda name: pytest.fail(name))


def test_every_key_is_there(single: Landscape, provenance: Provenance):
    found = payload(single, provenance)
    assert found.keys() == {"schema", "version", *CONTRACT, "surfaces", "notes"}
    assert found["schema"] == "hessdiag.landscape/1"
    assert found["version"] == hessdiag.__version__
    for section, keys in CONTRACT.items():
        assert found[section].keys() == keys, section
    (surface,) = found["surfaces"]
    assert surface.keys() == SURFACE | FULL
    assert surface["origin"].keys() == {"loss", "gn_norm", "nme_norm"} | FULL
    assert surface["gn_full"].keys() == {"value", "stderr"}
    tables = [surface[name] for name in ("loss", "gn_norm", "nme_norm")]
    tables += [surface[name][key] for name in FULL for key in ("value", "stderr")]
    for table in tables:
        assert [len(row) for row in table] == [5] * 5
    assert found["notes"] == []


def test_the_numbers_are_those_of_the_landscape(single: Landscape, provenance: Provenance):
    found = payload(single, provenance)
    (surface,) = single.surfaces
    assert found["surfaces"][0]["nme_norm"] == surface.nme_norm.tolist()
    assert found["surfaces"][0]["loss"][2][2] == found["surfaces"][0]["origin"]["loss"]
    assert found["axes"] == {"a": single.a.tolist(), "b": single.b.tolist()}
    assert found["plane"]["kind"] == "gn"
    assert found["plane"]["labels"] == ["gn eigenvector 1", "gn eigenvector 2"]
    assert [e["value"] for e in found["plane"]["eigenvalues"]] == [
        ritz.value for ritz in single.eigenvalues
    ]
    assert found["settings"]["params"] == ["fc*"]
    assert found["settings"]["batch_size"] == 5
    assert found["checkpoint"]["sha256"] == "c" * 64
    assert found["data"]["num_samples"] == 9


def test_two_activations_have_a_surface_each(pair: Landscape):
    found = payload(pair)
    assert [(s["activation"], s["beta"]) for s in found["surfaces"]] == [
        ("relu", None),
        ("beta_gelu", 10.0),
    ]
    assert all(surface.keys() == SURFACE for surface in found["surfaces"])
    assert found["checkpoint"]["path"] is None
    assert found["notes"] == [
        "relu: the NME norm is exactly 0 at every point, and no point lies on a kink"
    ]


def test_what_is_not_finite_is_null_and_noted(gappy: Landscape):
    found = payload(gappy)
    assert found["surfaces"][0]["loss"][0][1] is None
    assert found["surfaces"][0]["loss"][0][0] is not None
    assert found["notes"] == list(gappy.notes)


def test_nothing_finite_at_all(empty: Landscape):
    found = payload(empty)
    assert found["surfaces"][0]["loss"] == [[None] * 5] * 5
    assert found["notes"] == ["the NME norm is exactly 0 at every point"]
