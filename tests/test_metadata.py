"""What a checkpoint says about itself."""

import json
from typing import Any

import pytest
from msgspec import structs

from hessdiag.errors import InputError
from hessdiag.metadata import SCHEMA, DataSpec, Metadata, ModelSpec

FULL = Metadata(
    model=ModelSpec("wrn10-1", "beta_gelu", 2.5, 10, (1, 8, 8)),
    data=DataSpec("digits", (0.3,), (0.4,)),
    loss="mse",
    recipe="digits-wrn10-1",
    regulariser="none",
    epoch=15,
    seed=3,
    metrics={"train_loss": 0.25},
)


def changed(**changes: Any) -> str:
    return json.dumps({**json.loads(FULL.to_json()), **changes})


@pytest.mark.parametrize("metadata", [FULL, Metadata(ModelSpec("resnet18"))], ids=["full", "bare"])
def test_the_round_trip(metadata: Metadata):
    again = Metadata.from_json(metadata.to_json())
    assert again == metadata
    assert hash(again.model) == hash(metadata.model)  # lists are tuples again
    assert json.loads(metadata.to_json())["schema"] == SCHEMA


def test_what_is_missing_has_defaults():
    text = json.dumps({"schema": SCHEMA, "model": {"name": "mlp-8"}})
    assert Metadata.from_json(text) == Metadata(ModelSpec("mlp-8"))


def test_what_a_later_version_adds_at_the_top_is_passed_over():
    assert Metadata.from_json(changed(novelty=[1, 2])) == FULL


@pytest.mark.parametrize("seed", [None, 0, 3, 2**62])
def test_the_seed_is_kept(seed: int | None):
    metadata = Metadata(ModelSpec("mlp-8"), seed=seed)
    assert Metadata.from_json(metadata.to_json()).seed == seed
    assert Metadata.from_json(changed(seed=seed)).seed == seed


def test_a_file_from_before_seeds_were_kept_is_read():
    raw = json.loads(FULL.to_json())
    del raw["seed"]
    assert Metadata.from_json(json.dumps(raw)) == structs.replace(FULL, seed=None)


def test_numbers_that_json_does_not_know_are_not_written():
    bad = Metadata(ModelSpec("mlp-8"), metrics={"train_loss": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        bad.to_json()


def test_another_schema_is_named():
    with pytest.raises(InputError, match=r"cannot be read\n.*other/7"):
        Metadata.from_json(changed(schema="other/7"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        '"text"',
        "{}",
        "[" * 100_000,
        json.dumps({"schema": SCHEMA}),
        changed(model=None),
        changed(model=[]),
        changed(model={}),
        changed(model={"name": 3}),
        changed(model={"name": None}),
        changed(model={"name": "mlp-8", "surprise": 1}),
        changed(model={"name": "mlp-8", "beta": "2"}),
        changed(model={"name": "mlp-8", "beta": True}),
        changed(model={"name": "mlp-8", "num_classes": 2.5}),
        changed(model={"name": "mlp-8", "input_shape": 8}),
        changed(model={"name": "mlp-8", "input_shape": ["8"]}),
        changed(data="digits"),
        changed(data={"spec": 1}),
        changed(data={"mean": [0.1]}),
        changed(data={"spec": "digits", "mean": ["x"]}),
        changed(loss=1),
        changed(epoch="3"),
        changed(seed="3"),
        changed(seed=2.5),
        changed(seed=True),
        changed(seed=[3]),
        changed(metrics=[1]),
        changed(metrics={"a": "b"}),
        changed(metrics={"a": None}),
        changed(metrics=None),
    ],
    ids=lambda text: text[-40:],
)
def test_other_contents_are_refused(text: str):
    with pytest.raises(InputError, match=r"metadata cannot be read\n[\s\S]*--model"):
        Metadata.from_json(text)
