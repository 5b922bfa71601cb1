"""``hessdiag train sweep``."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.test_bad_input import refused

TINY = ("train", "sweep", "--model", "mlp-8", "--epochs", 1, "--num-samples", 64, "--seed", "0,1")


def test_a_sweep_leaves_runs_table_report_and_plot(run: Run, here: Path):
    grid = ("--reg", "none,sam", "--rho", "0, 0.1", "--activation", "gelu,relu")
    outcome = run(*TINY, *grid, "--json", "r.json", "--plot", "p.png")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("mlp-8 on digits, 64 examples, 1 epoch\n")
    assert (here / "p.png").read_bytes().startswith(b"\x89PNG")
    report = (here / "r.json").read_text("utf-8")
    place = here / "runs/digits-wrn10-1-sweep"
    assert (place / "sweep.json").read_text("utf-8") == report
    found = json.loads(report, parse_constant=lambda name: pytest.fail(name))
    runs = [each["name"] for cell in found["cells"] for each in cell["runs"]]
    assert len(runs) == 6 * 2
    assert "sam-rho=0.1-relu-seed=1" in runs
    assert all((place / name / "model.safetensors").exists() for name in runs)
    assert found["cells"][0]["accuracy"]["count"] == 2
    again = run(*TINY, *grid)
    assert (again.code, again.out) == (0, outcome.out)


def test_a_list_reaches_each_option(run: Run, here: Path):
    options = ("--reg", "gn-trace", "--kappa", "0.1,0.2", "--reg-samples", "1,2")
    outcome = run(*TINY, *options, "--out", "o", "--json", "-", "--lr", 0.01, "--batch-size", 16)
    found = json.loads(outcome.out)
    assert [cell["strengths"] for cell in found["cells"]] == [
        {"kappa": kappa, "samples": samples} for kappa in (0.1, 0.2) for samples in (1, 2)
    ]
    assert (found["settings"]["lr"], found["settings"]["batch_size"]) == (0.01, 16)
    powers = (*TINY, "--reg", "grad-penalty", "--power", "1,2", "--out", "p", "--json", "-")
    assert [cell["strengths"] for cell in json.loads(run(*powers).out)["cells"]] == [
        {"power": 1},
        {"power": 2},
    ]


def test_what_is_tracked_has_a_table(run: Run, here: Path):
    outcome = run(*TINY, "--track", "gn.trace")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[lines.index("Tracked") + 1].split() == ["method", "gn.trace"]


def test_a_failure_is_told_and_is_none_of_the_whole(run: Run, here: Path):
    outcome = run(*TINY, "--reg", "sam", "--rho", "1e32,0.1")
    assert outcome.code == 0
    assert "0 of 2, 2 failed" in outcome.out
    assert "note: sam-rho=1e+32-gelu-seed=0 failed: training diverged" in outcome.out


def test_a_sweep_of_failures_is_one(run: Run, here: Path):
    outcome = run(*TINY, "--reg", "sam", "--rho", 1e32, "--plot", "p.png", "--json", "r.json")
    assert "0 of 2, 2 failed" in outcome.out
    assert json.loads((here / "r.json").read_text("utf-8"))["cells"][0]["accuracy"] is None
    assert outcome.code == 2
    assert outcome.err.startswith("error: no run of the sweep could be finished")


def test_quiet_prints_nothing(run: Run, here: Path):
    outcome = run(*TINY, "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--reg", "sam", "--rho", "0.1;0.2"), "--rho is no list of numbers.*'0.1;0.2'"),
        (("--seed", "0,1.5"), "--seed is no list of whole numbers"),
        (("--seed", ""), "--seed is no list of whole numbers"),
        (("--reg", "none,sma"), "unknown regulariser.*did you mean sam"),
        (("--reg", "none", "--rho", "0.1"), "no method of the sweep takes --rho.*leave --rho out"),
        (("--beta", "1,2"), "no activation of the sweep takes a β"),
        (("--track", "hessian.trance"), "hessian.trance"),
        (("--num-samples", 0), "--num-samples is out of range"),
        (("--plot", "p.gif"), "unknown kind of plot"),
    ],
)
def test_a_mistake_leaves_nothing_behind(
    run: Run, here: Path, options: tuple[Any, ...], words: str
):
    refused(run(*TINY, *options), words)
    assert list(here.iterdir()) == []


def test_the_folder_of_another_sweep_is_refused(run: Run, here: Path):
    assert run(*TINY, "--out", "o").code == 0
    refused(run(*TINY, "--out", "o", "--lr", 0.5), "another configuration.*none-gelu-seed=0")


LONG = ("--model", "mlp-64", "--epochs", 60, "--num-samples", 256, "--seed", "0,1")
GRID = ("train", "sweep", *LONG, "--reg", "none,sam", "--rho", 0.1, "--quiet")


def started(*args: object, cwd: Path) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-m", "hessdiag", *map(str, args)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def begun(place: Path) -> int:
    """Wait for a run that has closed an epoch but not its last; the process that trains it."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for state in place.glob("*/state.pt"):
            run = state.parent
            if not (run / "report.json").exists() and (run / ".hessdiag-lock").exists():
                return json.loads((run / ".hessdiag-lock").read_text("utf-8"))["pid"]
        time.sleep(0.02)
    pytest.fail("no run was begun")


@pytest.mark.slow
def test_two_jobs_that_are_killed_and_interrupted_make_the_table_of_one(here: Path):
    alone = started(*GRID, "--out", "one", cwd=here)
    killed = started(*GRID, "--out", "two", "--jobs", 2, cwd=here)
    os.kill(begun(here / "two"), signal.SIGKILL)
    assert killed.communicate(timeout=240) == ("", "")
    interrupted = started(*GRID, "--out", "three", "--jobs", 2, cwd=here)
    pid = begun(here / "three")
    os.killpg(interrupted.pid, signal.SIGINT)
    assert interrupted.communicate(timeout=30) == ("", "interrupted\n")
    assert (killed.returncode, interrupted.returncode) == (0, 130)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not list((here / "three").glob("**/.hessdiag-lock"))
    assert started(*GRID, "--out", "three", "--jobs", 2, cwd=here).communicate(timeout=240)
    assert alone.communicate(timeout=240) == ("", "")
    tables = [(here / place / "sweep.json").read_bytes() for place in ("one", "two", "three")]
    assert tables[0] == tables[1] == tables[2]
