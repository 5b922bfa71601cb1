"""Limits: how they are written, where they are found, and who wins."""

import re
from pathlib import Path
from typing import Any

import pytest

from hessdiag import InputError
from hessdiag.gates import limits
from hessdiag.gates.limits import Limit

HESSDIAG = """
[gate]
baseline = "main.json"
confidence = 0.9
max-probes = 64
max-seconds = 5

[gate.max]
hessian.trace = 120
"hessian.layers.fc.weight.trace" = 3.5

[gate.min]
accuracy = 0.95

[gate.max-increase]
nme.frobenius_norm = "10%"
gn.trace = "2.5"
"""
FOUND = (
    Limit("max", "hessian.trace", 120.0),
    Limit("max", "hessian.layers.fc.weight.trace", 3.5),
    Limit("min", "accuracy", 0.95),
    Limit("max-increase", "nme.frobenius_norm", 0.1, relative=True),
    Limit("max-increase", "gn.trace", 2.5),
)


@pytest.mark.parametrize(
    ("kind", "text", "limit"),
    [
        ("max", "hessian.trace=120", Limit("max", "hessian.trace", 120.0)),
        ("min", "nme.bottom.3 = -1e-2", Limit("min", "nme.bottom.3", -0.01)),
        (
            "max-increase",
            "nme_to_gn=10%",
            Limit("max-increase", "nme_to_gn", 0.1, relative=True),
        ),
        ("max-increase", "loss= 0.5 %", Limit("max-increase", "loss", 0.005, relative=True)),
        ("max-increase", "gradient.norm=3", Limit("max-increase", "gradient.norm", 3.0)),
        ("max", "sparsity.above=1", Limit("max", "sparsity.above", 1.0)),
        ("max", "gn.layers.a=b.c.trace=1", Limit("max", "gn.layers.a=b.c.trace", 1.0)),
    ],
)
def test_limits_as_options(kind: str, text: str, limit: Limit):
    assert limits.parse(kind, text) == limit


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("max", "hessian.trace", "--max has no value.*--max hessian.trace=120"),
        ("max", "hessian.trac=1", "unknown metric.*did you mean hessian.trace"),
        ("max", "hesian.lambda_max=1", "unknown metric.*hessian.lambda_max.*<part>.top.<i>"),
        ("max", "=1", "unknown metric"),
        ("max", "loss=", "the limit of loss is no number"),
        ("max", "loss=many", "the limit of loss is no number.*'many'"),
        ("max", "loss=nan", "not finite"),
        ("min", "loss=inf", "not finite"),
        ("max", "loss=10%", "a share of what"),
        ("max-increase", "loss=%", "is no number.*10%"),
    ],
)
def test_limits_that_are_none(kind: str, text: str, words: str):
    with pytest.raises(InputError) as caught:
        limits.parse(kind, text)
    assert re.search(words, str(caught.value), re.DOTALL), caught.value


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (Limit("max", "loss", 120.0), "≤ 120"),
        (Limit("min", "loss", -0.5), "≥ -0.5"),
        (Limit("max-increase", "loss", 0.1, relative=True), "≤ +10 %"),
        (Limit("max-increase", "loss", -3.0), "≤ -3"),
    ],
)
def test_limits_as_people_write_them(limit: Limit, text: str):
    assert limit.text == text


def test_a_table_of_limits():
    table = {"max": {"loss": 1}, "max-increase": {"nme": {"trace": "5%"}}}
    assert limits.from_table(table) == (
        Limit("max", "loss", 1.0),
        Limit("max-increase", "nme.trace", 0.05, relative=True),
    )


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"most": {"loss": 1}}, "unknown kind of limit"),
        ({"max": 3}, "max holds no limits"),
        ({"max": {"loss": True}}, "is no number"),
        ({"max": {"loss": [1]}}, "is no number"),
        ({"max": {"loss": 10**400}}, "is no number"),
        ({"max": {"hessian": {"tracee": 1}}}, "unknown metric.*hessian.trace"),
    ],
)
def test_a_table_that_holds_none(table: dict[str, Any], words: str):
    with pytest.raises(InputError) as caught:
        limits.from_table(table)
    assert re.search(words, str(caught.value), re.DOTALL), caught.value


def test_limits_of_a_file(tmp_path: Path):
    (tmp_path / "hessdiag.toml").write_text(HESSDIAG)
    found = limits.find(folder=str(tmp_path))
    assert found.limits == FOUND
    assert found.baseline == str(tmp_path / "main.json")
    assert found.settings == {"confidence": 0.9, "max_probes": 64, "max_seconds": 5}


def test_limits_of_pyproject(tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text(HESSDIAG.replace("[gate", "[tool.hessdiag.gate"))
    assert limits.find(folder=str(tmp_path)).limits == FOUND
    assert limits.find(str(tmp_path / "pyproject.toml")).limits == FOUND
    (tmp_path / "hessdiag.toml").write_text("[gate.max]\nloss = 1\n")
    assert limits.find(folder=str(tmp_path)).limits == (Limit("max", "loss", 1.0),)
    (tmp_path / "hessdiag.toml").write_text("[other]\n")
    assert limits.find(folder=str(tmp_path)).limits == FOUND


def test_a_folder_without_files_holds_no_limits(tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert limits.find(folder=str(tmp_path)) == limits.Config()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("none.toml", None, "none.toml cannot be read.*No such file"),
        ("a.toml", "[gate", "a.toml cannot be read"),
        ("a.toml", "\xff", "a.toml cannot be read"),
        ("a.toml", "[other]", r"a.toml holds no gate.*\[gate\]"),
        ("pyproject.toml", "[gate]", r"holds no gate.*\[tool.hessdiag.gate\]"),
        ("a.toml", "gate = 3", "is no table"),
        ("pyproject.toml", "tool = 3", "is no table"),
        ("a.toml", "[gate]\nmaximum = 3", "unknown key of the gate.*did you mean max"),
        ("a.toml", "[gate]\nconfidence = 'high'", "confidence .* is of the wrong kind"),
        ("a.toml", "[gate]\nmax-probes = true", "max-probes .* is of the wrong kind"),
        ("a.toml", "[gate]\nmax-probes = 1.5", "max-probes .* is of the wrong kind"),
        ("a.toml", "[gate.max]\nfoo = 1", "unknown metric"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, text: str | None, words: str):
    if text is not None:
        (tmp_path / name).write_text(text, "latin-1")
    with pytest.raises(InputError) as caught:
        limits.find(str(tmp_path / name))
    assert re.search(words, str(caught.value), re.DOTALL), caught.value


def test_options_win_over_the_file_of_the_same_metric_by_any_of_its_names():
    file = (Limit("max", "hessian.lambda_max", 1.0), Limit("min", "loss", 1.0))
    options = (Limit("max", "hessian.top.0", 2.0), Limit("max", "loss", 3.0))
    assert limits.override(file, options) == (options[0], file[1], options[1])
