"""Values as JSON and back: what is written, and how what does not fit is refused."""

import json
import math
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from msgspec import Meta, Struct
from numpy.typing import NDArray

from hessdiag import InputError, codec, files
from hessdiag.codec import Count


@dataclass(frozen=True)
class Curve:
    x: NDArray[np.float64]
    y: NDArray[np.float64] | None = None


class Sample(Struct, frozen=True, kw_only=True):
    value: float
    count: Annotated[int, Meta(ge=1)] = 1
    size: Count = 0
    ends: tuple[float, float] | None = None
    curves: dict[str, Curve] = {}


def test_what_is_written_is_strict_json_with_numbers_on_one_line():
    value = Sample(value=math.nan, ends=(-math.inf, 2.0), curves={"a": Curve(np.arange(3.0))})
    text = codec.encode(value)
    assert '"x": [ 0.0, 1.0, 2.0 ],' in text
    assert text.endswith("}\n")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(text, parse_constant=refuse)
    assert found["value"] is None
    assert found["ends"] == [None, 2.0]


def test_a_name_that_is_no_unicode_is_written_visibly():
    assert json.loads(codec.encode({"a\udcff": "\udc80"})) == {"a\\udcff": "\\udc80"}


def test_a_value_comes_back_as_it_was():
    value = Sample(
        value=1e-5, count=3, ends=(0.5, 2.0), curves={"a": Curve(np.ones(3), np.ones(3))}
    )
    found = codec.decode(Sample, codec.encode(value))
    assert (found.value, found.count, found.ends) == (1e-5, 3, (0.5, 2.0))
    np.testing.assert_array_equal(found.curves["a"].x, np.ones(3))
    assert codec.encode(found) == codec.encode(value)


def test_keys_of_other_versions_do_no_harm():
    assert codec.decode(Sample, '{"value": 1, "weather": [{"x": 1}]}') == Sample(value=1.0)


def test_null_in_an_array_was_not_finite():
    text = '{"value": 1, "curves": {"a": {"x": [1, null, 2.5]}}}'
    found = codec.decode(Sample, text).curves["a"].x
    np.testing.assert_array_equal(found, [1.0, np.nan, 2.5])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value": None}, r"damaged: value\n  got: null\n  wanted: float"),
        ({"value": "1"}, r"damaged: value\n  got: str\n  wanted: float"),
        ({"value": True}, r"damaged: value\n  got: bool\n  wanted: float"),
        ({"value": 10**400}, "damaged: value\n.*out of range"),
        ({"size": 10**400}, "damaged: size"),
        ({"count": 0}, r"damaged: count\n.*>= 1"),
        ({"count": 1.5}, "damaged: count"),
        ({"ends": [1.0]}, "damaged: ends"),
        ({"ends": [1.0, None]}, r"damaged: ends\[1\]"),
        ({"curves": []}, "damaged: curves\n  got: array\n  wanted: object"),
        ({"curves": {"a": {}}}, ".*missing required field `x`"),
        ({"curves": {"a": {"x": ["1"]}}}, "damaged: curves.*x\n  got: no array of numbers"),
        ({"curves": {"a": {"x": [[1], [1, 2]]}}}, "damaged: curves.*x\n  got: no array of numbers"),
        ({"curves": {"a": {"x": [1, {}]}}}, "damaged: curves.*x\n  got: no array of numbers"),
        ({"curves": {"a": {"x": [10**400]}}}, "damaged: curves.*x\n  got: no array of numbers"),
        ({"curves": {"a": {"x": 7}}}, "damaged: curves.*x\n  got: no array of numbers"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=f"(?s)^the report is {words}"):
        codec.decode(Sample, json.dumps({"value": 1.0, **changes}))


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", "null", "NaN", "\x00\x01", '{"value": NaN}', '{"value": 1e999}'),
        "[" * 100_000,
        '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"value": ' + "9" * 5000 + "}",
        '{"value": 1, "x": "\\ud800"}',
        b"\xff\xfe{}",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_report_is_refused(text: str | bytes):
    with pytest.raises(InputError, match="the report is damaged"):
        codec.decode(Sample, text)


@pytest.mark.parametrize("filler", ["{},", "[],", "0,"])
def test_a_text_of_too_many_values_is_refused_unread(filler: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(codec, "MOST_VALUES", 1000)
    text = f'{{"value": 1, "x": [{filler * 900}0]}}'
    if len(filler) == 2:
        codec.decode(Sample, text)
        text = f'{{"value": 1, "x": [{filler * 1100}0]}}'
    with pytest.raises(InputError, match="more than 1,000 values"):
        codec.decode(Sample, text)


def test_toml_has_the_same_ranges():
    assert codec.decode_toml(Sample, "value = 2\ncount = 3").count == 3
    with pytest.raises(InputError, match="the configuration is damaged: count"):
        codec.decode_toml(Sample, "value = 2\ncount = 0")
    with pytest.raises(InputError, match="the configuration cannot be read as TOML"):
        codec.decode_toml(Sample, "value = ")


def test_a_byte_order_mark_is_passed_over():
    assert codec.decode_toml(Sample, "\ufeffvalue = 2\r\ncount = 3").count == 3
    assert codec.decode(Sample, "\ufeff" + codec.encode(Sample(value=2.0, count=3))).count == 3


def test_a_key_of_very_many_parts_is_refused_unread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tomllib, "loads", lambda _: pytest.fail("it is read"))
    with pytest.raises(InputError, match="cannot be read as TOML"):
        codec.decode_toml(Sample, "a" + ".a" * 50_000 + " = 1")


def test_what_is_no_file_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.json")  # reading it would wait for a writer for ever
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(files.LARGEST + 1)  # takes no room
    for name, reason in (
        (".", "Is a directory"),
        ("none.json", "No such file"),
        ("pipe.json", "a device or a pipe"),
        ("large.json", "at most 67,108,864 are read"),
        ("nul\0l", "null byte"),
    ):
        with pytest.raises(InputError, match=f"(?s)the report .* cannot be read.*{reason}"):
            codec.read(Sample, tmp_path / name)
