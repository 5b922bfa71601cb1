"""Parsers on any text: what they take they give back, all else they refuse as the user's error."""

import json
import math
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hessdiag.errors import InputError, printable
from hessdiag.gates import limits
from hessdiag.metadata import DataSpec, Metadata, ModelSpec
from hessdiag.metrics import metric_table
from hessdiag.nets import activations
from hessdiag.parts import PARTS
from hessdiag.show.markup import text as escaped
from hessdiag.show.wording import plus_minus
from hessdiag.training import methods
from hessdiag.training.folder import Config
from hessdiag.training.recipes import find

settings.register_profile("here", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("here")

FINITE = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = st.none() | FINITE
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))  # what a file of UTF-8 can hold
NAMES = st.sampled_from(metric_table.NAMES) | st.builds(
    "{}.{}.{}".format,
    st.sampled_from(PARTS),
    st.sampled_from(("top", "bottom")),
    st.integers(0, 9999),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.sampled_from(limits.KINDS), NAMES, FINITE)
def test_a_limit_is_read_as_it_is_written(kind: str, metric: str, bound: float):
    assert limits.parse(kind, f"{metric}={bound!r}") == limits.Limit(kind, metric, bound)
    assert limits.from_table({kind: {metric: bound}}) == (limits.Limit(kind, metric, bound),)


@given(st.sampled_from(limits.KINDS), st.text() | st.builds("{}={}".format, NAMES, st.text()))
def test_a_limit_of_any_text_is_read_or_refused(kind: str, text: str):
    with suppress(InputError):
        assert math.isfinite(limits.parse(kind, text).bound)


@given(
    st.dictionaries(st.sampled_from(limits.KINDS) | st.text(), JSON | st.dictionaries(NAMES, JSON))
)
def test_a_table_of_anything_is_read_or_refused(table: dict[str, object]):
    with suppress(InputError):
        assert all(math.isfinite(limit.bound) for limit in limits.from_table(table))


@given(NAMES)
def test_a_metric_is_found_by_its_name(name: str):
    found = metric_table.parse(name)
    assert metric_table.parse(found.name).name == found.name


@given(st.sampled_from(PARTS), st.text(st.characters(exclude_characters="\n"), min_size=1))
def test_a_layer_of_any_name_is_a_metric(part: str, layer: str):
    found = metric_table.parse(f"{part}.layers.{layer}.trace")
    assert (found.parts, found.layer) == ((part,), layer)


@given(st.text())
def test_other_text_is_no_metric(text: str):
    known = {name for row in metric_table.TABLE for name in row.names}
    assert metric_table.find(text) is None or text in known


@given(model=TEXTS, data=TEXTS, root=st.none() | TEXTS, source=TEXTS, track=st.lists(TEXTS))
def test_a_configuration_survives_whatever_its_texts(
    model: str, data: str, root: str | None, source: str, track: list[str]
):
    changes = {"model": model, "data": data, "source": source}
    recipe = replace(find("digits-wrn10-1"), **changes)
    config = Config(replace(recipe, method=methods.SAM()), data_root=root, track=tuple(track))
    assert Config.from_toml(config.to_toml()) == config


@given(st.text())
def test_a_configuration_of_any_text_is_refused(text: str):
    with pytest.raises(InputError):
        Config.from_toml(text)


COUNTS = st.integers(0, 2**63 - 1)


@given(
    st.builds(
        Metadata,
        model=st.builds(
            ModelSpec,
            st.text(),
            st.none() | st.text(),
            NUMBERS,
            st.none() | COUNTS,
            st.none() | st.lists(COUNTS).map(tuple),
        ),
        data=st.none()
        | st.builds(
            DataSpec,
            st.text(),
            st.none() | st.lists(FINITE).map(tuple),
            st.none() | st.lists(FINITE).map(tuple),
        ),
        loss=st.none() | st.text(),
        recipe=st.none() | st.text(),
        epoch=st.none() | COUNTS,
        seed=st.none() | st.integers(-(2**63), 2**63 - 1),
        metrics=st.dictionaries(st.text(), FINITE),
    )
)
def test_metadata_survive(metadata: Metadata):
    assert Metadata.from_json(metadata.to_json()) == metadata


@given(st.text() | JSON.map(json.dumps))
def test_other_metadata_are_refused(text: str):
    with pytest.raises(InputError):
        Metadata.from_json(text)


@given(st.fixed_dictionaries({"schema": st.just("hessdiag.checkpoint/1"), "model": JSON}))
def test_metadata_of_any_model_are_refused(raw: dict[str, object]):
    with pytest.raises(InputError):
        Metadata.from_json(json.dumps(raw))


@given(st.text(), st.text())
def test_no_control_character_is_printed(before: str, after: str):
    for control in ("\x1b", "\x07", "\r", "\x9b", "\u202e", "\ud800", "\u2028"):
        shown = printable(before + control + after)
        assert shown.replace("\n", "").isprintable()
        shown.encode()


@given(st.text())
def test_no_text_is_markup(text: str):
    shown = escaped(text)
    assert not set(shown) & set("<>\"'")
    shown.encode()


@given(st.sampled_from(activations.NAMES) | st.text(), st.none() | st.floats())
def test_an_activation_is_made_or_refused(name: str, beta: float | None):
    with suppress(InputError):
        settled = activations.settle_beta(name, beta)
        activations.make(name, beta)
        assert name in activations.NAMES
        assert settled is None or (math.isfinite(settled) and settled > 0)
        assert activations.label(name, settled).startswith(name)


@given(st.floats(), st.none() | st.floats(min_value=0) | st.just(math.nan))
def test_every_number_can_be_written(value: float, error: float | None):
    text = plus_minus(value, error)
    assert text
    assert len(text) < 40
