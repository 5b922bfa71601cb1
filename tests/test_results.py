"""Results of every kind: their JSON gives them back, and earlier versions' files still read."""

import importlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

import hessdiag
from hessdiag import InputError, results
from hessdiag.metadata import Metadata
from hessdiag.results import KINDS, Measured
from hessdiag.show.document import Document
from tests.results import PROVENANCE, RESULTS

SAMPLES = sorted(Path(__file__).with_name("samples").glob("*-0.1.json"))


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_comes_back_as_it_was(name: str, tmp_path: Path):
    result = RESULTS[name]()
    (tmp_path / "r.json").write_text(result.to_json(), "utf-8")
    found = results.read(tmp_path / "r.json")
    assert type(found) is type(result)
    assert found.to_json() == result.to_json()
    assert json.loads(result.to_json())["version"] == hessdiag.__version__


def known(now: Any, before: Any) -> Any:
    """Leave out the keys that were added since."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {key: known(now[key], before[key]) for key in before}
    if isinstance(before, list) and isinstance(now, list) and len(now) == len(before):
        return [known(one, other) for one, other in zip(now, before, strict=True)]
    return now


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_what_an_earlier_version_wrote_still_reads(path: Path):
    found = results.read(path)
    before, now = json.loads(path.read_text("utf-8")), json.loads(found.to_json())
    assert known(now, before) == before
    assert isinstance(found.document(), Document)


@pytest.mark.parametrize("schema", KINDS)
def test_every_kind_has_its_type_and_its_document(schema: str):
    assert results.kind_of(schema).__struct_config__.tag == schema
    assert callable(importlib.import_module(f"{KINDS[schema]}_document").document)
    assert any(result().schema == schema for result in RESULTS.values())


def whole_numbers(schema: Any, where: str = "") -> dict[str, Any]:
    """Find the whole numbers in a schema of JSON; settings check their own."""
    if isinstance(schema, list):
        schema = dict(enumerate(schema))
    if not isinstance(schema, dict) or where.endswith("Chosen"):
        return {}
    own = {where: schema} if schema.get("type") == "integer" else {}
    return own | {
        place: one
        for key, value in schema.items()
        for place, one in whole_numbers(value, f"{where}.{key}").items()
    }


@pytest.mark.parametrize("kind", [*map(results.kind_of, KINDS), Metadata], ids=str)
def test_every_whole_number_that_is_read_has_an_end(kind: type[Any]):
    schema = msgspec.json.schema(kind, schema_hook=lambda _: {"type": "array"})
    found = whole_numbers(schema)
    assert found
    assert [where for where, one in found.items() if "maximum" not in one] == []


def test_the_origin_is_named_where_it_is_known():
    blank, told = RESULTS["spectrum, of a network without a name"](), RESULTS["spectrum"]()
    assert isinstance(blank, Measured)
    assert isinstance(told, Measured)
    found = json.loads(told.to_json())
    assert found["checkpoint"] == {
        "path": PROVENANCE.checkpoint,
        "sha256": "c" * 64,
        "num_parameters": blank.num_parameters,
    }
    model = {"name": "mlp-5-4", "activation": "beta_gelu", "beta": 2.0, "trained_with": None}
    assert found["model"] == model
    assert found["data"] == {
        **{"spec": "digits", "split": "train", "num_samples": 9, "sha256": "d" * 64}
    }
    assert json.loads(blank.to_json())["model"] == dict.fromkeys(model)
    assert results.subject(told) == "mlp-5-4 beta_gelu(2) on digits (train)"
    assert results.subject(blank) == f"a network of {blank.num_parameters} parameters"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"schema": "hessdiag.spectrum/2"}', "(?s)unknown schema.*did you mean"),
        ('{"schema": "hessdiag.sparsity/1"}', "unknown schema"),
        ('{"schema": null}', "is no report of hessdiag"),
        ("{}", "is no report of hessdiag"),
        ('{"schema": 7}', "damaged: schema"),
        ("[1]", "damaged"),
    ],
)
def test_another_schema_is_refused_by_name(tmp_path: Path, text: str, words: str):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=words) as refused:
        results.read(tmp_path / "r.json", results.kind_of("hessdiag.spectrum/1"))
    assert "r.json" in str(refused.value)
