"""``hessdiag demo``."""

import json
from pathlib import Path
from typing import Any

import pytest

import hessdiag.cli.app as _app  # before its commands are replaced
from hessdiag.cli.options import OutputOptions, QuietOption
from tests.cli.conftest import Run
from tests.cli.test_bad_input import refused
from tests.cli.test_train import FILES


@pytest.mark.slow
def test_the_demo(run: Run, here: Path):
    outcome = run("demo")
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in (here / "runs/demo").iterdir()) == sorted(
        [*FILES, "state-previous.pt", "spectrum.png", "report.html"]
        + [f"{command}.json" for command in ("spectrum", "sparsity", "gate")]
    )
    commands = ("train", "spectrum", "sparsity", "gate", "report")
    for words in (*(f"$ hessdiag {command}" for command in commands), "NME N", "the gate passes"):
        assert words in outcome.out
    found = json.loads((here / "runs/demo/spectrum.json").read_text("utf-8"))
    assert found["loss"]["accuracy"] > 0.9


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Let the demo's commands do nothing, and note with what they are called."""
    assert _app
    noted: list[list[Any]] = []
    for command in ("train", "spectrum", "sparsity", "gate", "report"):
        path = f"hessdiag.cli.{command}.{command}"
        monkeypatch.setattr(path, lambda *given, **named: noted.append([*given, *named.values()]))
    return noted


@pytest.mark.parametrize("out", ["[red]my runs[red]", "[/]", ":smile:"])
def test_the_demo_shows_its_commands_as_they_are(run: Run, here: Path, calls, out: str):
    outcome = run("demo", "--out", out)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count(out) >= 4
    assert out in calls[0]
    (output,) = (given for given in calls[1] if isinstance(given, OutputOptions))
    assert output.plot == f"{out}/spectrum.png"


def test_the_demo_can_be_quiet(run: Run, here: Path, calls):
    assert run("demo", "--quiet").out == ""
    talks = [[of for of in call if isinstance(of, QuietOption)] for call in calls]
    assert [[of.quiet for of in talk] for talk in talks] == [[True]] * 5


@pytest.mark.parametrize("name", ["model.safetensors", "report.html", "spectrum.json"])
def test_the_demo_replaces_nothing(run: Run, here: Path, calls, name: str):
    (here / "mine").mkdir()
    (here / "mine" / name).write_text("mine")
    refused(run("demo", "--out", "mine"), f"holds such files already.*{name}.*another --out")
    assert calls == []


def test_a_second_demo_has_a_folder_of_its_own(run: Run, here: Path, calls):
    assert run("demo").code == run("demo").code == 0
    assert "runs/demo" in calls[0]
    assert any(str(one).startswith("runs/demo-") for one in calls[5])
    assert True not in calls[0]  # nothing is forced
