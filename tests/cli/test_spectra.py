"""``hessdiag spectrum`` of many checkpoints."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hessdiag.cli.spectra import names_of
from tests.cli.conftest import FAST, Run
from tests.cli.test_bad_input import refused


@pytest.fixture
def checkpoints(here: Path, checkpoint: Path) -> list[str]:
    """Two in folders of their own, and one that is none."""
    for name in ("a", "b", "c"):
        (here / "runs" / name).mkdir(parents=True)
        shutil.copy(checkpoint, here / "runs" / name / "model.safetensors")
    (here / "runs/b/model.safetensors").write_text("nothing")
    return [f"runs/{name}/model.safetensors" for name in ("a", "b", "c")]


@pytest.mark.parametrize(
    ("checkpoints", "names"),
    [
        (["runs/a/model.safetensors", "runs/b/model.safetensors"], ["a", "b"]),
        (["a/x/1.pt", "a/y/2.pt"], ["x-1", "y-2"]),
        (["a-b/c.pt", "a/b-c.pt"], ["a-b-c", "a-b-c-1"]),
        (["llama-3.1", "llama-3.2"], ["llama-3.1", "llama-3.2"]),
        (["run", "run/last.pt"], ["run", "last"]),
        (["runs/a/model.pt"], ["model"]),
    ],
)
def test_a_report_is_named_by_what_tells_its_checkpoint_from_the_others(
    checkpoints: list[str], names: list[str]
):
    assert names_of(checkpoints) == names


@pytest.mark.parametrize(
    "jobs", [(), pytest.param(("--jobs", 2), marks=pytest.mark.slow)], ids=["one", "jobs"]
)
def test_each_has_the_report_of_its_own_command_and_a_row(
    run: Run, here: Path, checkpoints: list[str], jobs: tuple[Any, ...]
):
    outcome = run("spectrum", *checkpoints, *FAST, "--json", "all/", *jobs)
    assert outcome.code == 0, outcome.err
    reports = {path.stem: json.loads(path.read_text("utf-8")) for path in here.glob("all/*.json")}
    assert reports.keys() == {"a", "c"}
    alone = run("spectrum", checkpoints[0], *FAST, "--json", "a.json")
    own = json.loads((here / "a.json").read_text("utf-8"))
    assert reports["a"] | {"cost": 0} == own | {"cost": 0}
    lines = outcome.out.splitlines()
    assert lines[0] == "2 of 3 checkpoints measured"
    assert [line.split()[0] for line in lines[2:4]] == ["a", "c"]
    assert "note: b: " in outcome.out
    assert f"{own['loss']['value']:.3f}"[:4] in lines[2]
    assert alone.code == 0


def test_what_has_its_report_is_left(run: Run, here: Path, checkpoints: list[str]):
    paths = {name: here / f"all/{name}.json" for name in "ac"}
    command = ("spectrum", checkpoints[0], checkpoints[2], *FAST, "--json", "all/")

    def measured(*more: Any) -> list[str]:
        before = {name: path.stat().st_ino for name, path in paths.items()}
        assert run(*command, *more).code == 0
        return [name for name, path in paths.items() if path.stat().st_ino != before[name]]

    assert run(*command).code == 0
    assert measured() == measured("--device", "cpu") == []
    paths["c"].write_text("half a rep")
    assert measured() == ["c"]
    shutil.copy(here / checkpoints[0], here / checkpoints[2])  # the same weights
    assert measured() == []
    other = json.loads(paths["a"].read_text("utf-8"))
    other["checkpoint"]["sha256"] = "0" * 64
    paths["a"].write_text(json.dumps(other))
    assert measured() == ["a"]
    assert measured("--seed", 1) == ["a", "c"]
    assert measured("--seed", 1, "--force") == ["a", "c"]


def test_one_alone_can_have_a_folder_and_without_one_there_is_the_table(
    run: Run, here: Path, checkpoints: list[str]
):
    assert run("spectrum", checkpoints[0], *FAST, "--json", "all/", "--quiet").code == 0
    assert [path.name for path in (here / "all").iterdir()] == ["model.json"]
    assert "2 of 2" in run("spectrum", checkpoints[0], checkpoints[2], *FAST).out


def test_where_none_can_be_measured_the_command_fails(run: Run, here: Path, checkpoints: list[str]):
    outcome = run("spectrum", checkpoints[1], "no.pt", *FAST, "--json", "all/")
    assert outcome.code == 2
    assert "error: no checkpoint could be measured" in outcome.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--json", "-"), "--json DIR/"),
        (("--json", "runs/b/model.safetensors"), "an output would replace an input"),
        (("--plot", "p.png"), "--plot"),
        (("--slurm", "time=5"), "--json DIR/ beside it"),
        (("--jobs", 0), "--jobs is out of range"),
    ],
)
def test_what_is_not_for_many_is_refused(
    run: Run, here: Path, checkpoints: list[str], options: tuple[Any, ...], words: str
):
    refused(run("spectrum", *checkpoints, *options), words)
