"""``hessdiag gate``: verdicts and their exit codes, files, precedence, services, bad usage."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import hessdiag
from tests.cases import BY_NAME
from tests.cli.conftest import Run
from tests.cli.test_bad_input import refused

FEW = ("--num-samples", 20)


def report(value: float = 10.0, spread: float = 4.0) -> dict[str, Any]:
    """Make a spectrum report of a trace that its 256 probes tell to about ± spread / 4."""
    told = [value + spread * z for z in np.random.default_rng(0).standard_normal(256)]
    samples = {"quadratic_forms": told, "squared_norms": [spread**2] * 256, "layers": None}
    ci95 = [value - spread / 8, value + spread / 8]
    trace = {"value": value, "stderr": spread / 16, "ci95": ci95, "num_probes": 256}
    model, batches, loss = BY_NAME["mlp-tanh-mse"]
    made = hessdiag.spectrum(
        model, batches, loss=loss, parts=("hessian",), num_probes=1, top_k=0, density=False
    )
    found = json.loads(made.to_json())
    found["loss"]["value"] = 0.5
    found["parts"]["hessian"] |= {"trace": trace, "samples": samples}
    return found


@pytest.fixture
def stored(here: Path) -> Path:
    (here / "report.json").write_text(json.dumps(report()))
    (here / "before.json").write_text(json.dumps(report(5.0, 0.4)))
    return here / "report.json"


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be no job of GitHub's, whatever runs the tests."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


# --- the truth table -----------------------------------------------------------------------------

TABLE: dict[str, tuple[tuple[str, ...], list[str], int]] = {
    "pass": (("--max", "hessian.trace=12"), ["pass"], 0),
    "pass, min": (("--min", "hessian.trace=8"), ["pass"], 0),
    "fail": (("--max", "hessian.trace=7"), ["fail"], 1),
    "fail, min": (("--min", "hessian.trace=13"), ["fail"], 1),
    "inconclusive": (("--max", "hessian.trace=10.2"), ["inconclusive"], 3),
    "missing": (("--max", "nme.trace=1"), ["fail"], 1),
    "of another report": (("--max", "sparsity.nonzero=1"), ["fail"], 1),
    "null accuracy": (("--min", "accuracy=0"), ["fail"], 1),
    "an increase": (
        ("--max-increase", "hessian.trace=10%", "--baseline", "before.json"),
        ["fail"],
        1,
    ),
    "an increase that is allowed": (
        ("--max-increase", "hessian.trace=300%", "--baseline", "before.json"),
        ["pass"],
        0,
    ),
    "an increase in doubt": (
        ("--max-increase", "hessian.trace=5", "--baseline", "before.json"),
        ["inconclusive"],
        3,
    ),
    "missing in the baseline": (
        ("--max-increase", "gn.trace=5", "--baseline", "before.json"),
        ["fail"],
        1,
    ),
    "pass and inconclusive": (
        ("--max", "hessian.trace=10.2", "--max", "loss=1"),
        ["inconclusive", "pass"],
        3,
    ),
    "inconclusive and fail": (
        ("--max", "hessian.trace=10.2", "--max", "loss=0"),
        ["inconclusive", "fail"],
        1,
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_verdicts_and_exit_codes(run: Run, stored: Path, name: str):
    args, verdicts, code = TABLE[name]
    outcome = run("gate", stored, *args, "--json", "-")
    assert (outcome.code, outcome.err) == (code, "")
    found = json.loads(outcome.out)
    assert [finding["verdict"] for finding in found["findings"]] == verdicts


def test_verdicts_and_exit_codes_on_a_checkpoint(run: Run, checkpoint: Path, here: Path):
    def gate(*limits: str) -> tuple[int, list[str]]:
        outcome = run("gate", checkpoint, *FEW, *limits, "--max-probes", 48, "--json", "g.json")
        findings = json.loads((here / "g.json").read_text())["findings"]
        return outcome.code, [finding["verdict"] for finding in findings]

    assert gate("--max", "hessian.trace=1e9", "--min", "accuracy=0") == (0, ["pass", "pass"])
    assert gate("--max", "hessian.trace=-1e9", "--max", "loss=1e9") == (1, ["fail", "pass"])
    value = json.loads((here / "g.json").read_text())["readings"]["hessian.trace"]["value"]
    assert gate("--max", f"hessian.trace={value}", "--max", "loss=1e9") == (
        3,
        ["inconclusive", "pass"],
    )
    assert gate("--max", f"hessian.trace={value}", "--max", "loss=0") == (
        1,
        ["inconclusive", "fail"],
    )
    assert gate("--max", "hessian.layers.none.trace=1") == (1, ["fail"])


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "there is no limit.*--max hessian.trace=120"),
        (("--max", "hessian.tracee=1"), "unknown metric.*did you mean hessian.trace"),
        (("--max", "hessian.trace"), "--max has no value"),
        (("--max", "hessian.trace=x"), "is no number"),
        (("--max", "hessian.trace=1%"), "a share of what"),
        (("--max-increase", "loss=1"), "no baseline.*--write-baseline"),
        (("--max-increase", "loss=1", "--baseline", "none.json"), "none.json cannot be read"),
        (("--max-increase", "loss=1", "--baseline", "bad.json"), "bad.json is damaged"),
        (("--max-increase", "loss=1", "--baseline", "other.json"), "unknown schema of the base"),
        (("--max", "loss=1", "--confidence", "1"), "confidence is out of range"),
        (("--max", "loss=1", "--config", "none.toml"), "none.toml cannot be read"),
        (("--write-baseline", "b.json"), "nothing is.*--baseline report.json"),
        (("--max", "loss=1", "--junit", "none/j.xml"), "folder does not exist"),
        (("--max", "loss=1", "--gitlab", "none/j.json"), "folder does not exist"),
        (("--max", "loss=1", "--json", "none/j.json"), "folder does not exist"),
    ],
    ids=str,
)
def test_bad_usage_is_no_verdict(run: Run, stored: Path, here: Path, args: Any, words: str):
    (here / "bad.json").write_text("{")
    (here / "other.json").write_text('{"schema": "other/1"}')
    before = sorted(here.iterdir())
    refused(run("gate", "report.json", *args), words)
    assert sorted(here.iterdir()) == before


def test_bad_settings_of_a_checkpoints_gate(run: Run, checkpoint: Path, here: Path):
    limit = ("--max", "hessian.trace=1")
    refused(run("gate", checkpoint, *limit, "--max-probes", 8), "--max-probes.*32 to")
    refused(run("gate", checkpoint, *limit, "--max-seconds", -1), "--max-seconds")
    refused(run("gate", checkpoint, "--write-baseline", "none/b.json"), "folder does not exist")
    refused(run("gate", "none.json", *limit), "the report none.json cannot be read")
    refused(run("gate", "none.safetensors", *limit), "none.safetensors.*No such file")
    refused(run("gate", checkpoint, "--max", "gn.top.9999=1"), "more eigenvalues")


# --- baselines -----------------------------------------------------------------------------------


def test_a_baseline_is_written_and_compared_with(run: Run, checkpoint: Path, here: Path):
    outcome = run("gate", checkpoint, *FEW, "--write-baseline", "base.json")
    assert outcome.code == 0
    assert "hessian.lambda_max" in outcome.out
    base = json.loads((here / "base.json").read_text())
    assert {"loss", "accuracy", "nme_to_gn", "gn.frobenius_norm"} <= set(base["readings"])
    limits = ("--max-increase", "nme.frobenius_norm=200%", "--max-increase", "loss=0")
    assert run("gate", checkpoint, *FEW, *limits, "--baseline", "base.json").code == 0
    base["readings"]["loss"]["value"] -= 1e-3
    (here / "base.json").write_text(json.dumps(base))
    assert run("gate", checkpoint, *FEW, *limits, "--baseline", "base.json").code == 1


@pytest.mark.parametrize(("bound", "kept"), [(1e9, False), (0, True)])
def test_a_gate_that_does_not_pass_leaves_the_baseline(
    run: Run, checkpoint: Path, here: Path, bound: float, kept: bool
):
    (here / "base.json").write_text("old")
    run("gate", checkpoint, *FEW, "--max", f"loss={bound}", "--write-baseline", "base.json")
    assert ((here / "base.json").read_text() == "old") == kept


# --- configuration -------------------------------------------------------------------------------

CONFIG = """
baseline = "before.json"
[gate.max]
"hessian.trace" = 7
[gate.max-increase]
"hessian.trace" = "300%"
"""


@pytest.fixture
def verdicts(run: Run, stored: Path) -> Callable[..., dict[str, str]]:
    def call(*args: Any) -> dict[str, str]:
        outcome = run("gate", stored, *args, "--json", "-")
        assert outcome.err == ""
        findings = json.loads(outcome.out)["findings"]
        return {f"{f['kind']} {f['metric']}": f["verdict"] for f in findings}

    return call


def test_limits_of_the_folder_are_kept_and_options_win(here: Path, verdicts: Any):
    text = "[gate]\n" + CONFIG
    (here / "hessdiag.toml").write_text(text)
    (here / "pyproject.toml").write_text("[tool.hessdiag.gate.max]\nloss = 0\n")
    file = {"max hessian.trace": "fail", "max-increase hessian.trace": "pass"}
    assert verdicts() == file
    assert verdicts("--max", "hessian.trace=12.5") == {**file, "max hessian.trace": "pass"}
    assert verdicts("--min", "loss=1") == {**file, "min loss": "fail"}
    assert verdicts("--baseline", "report.json")["max-increase hessian.trace"] == "pass"
    assert verdicts("--config", "pyproject.toml") == {"max loss": "fail"}
    (here / "hessdiag.toml").unlink()
    assert verdicts() == {"max loss": "fail"}


def test_settings_of_the_file_give_way_to_options(here: Path, run: Run, stored: Path):
    (here / "hessdiag.toml").write_text("[gate]\nconfidence = 0.8\n[gate.max]\nloss = 1\n")

    def confidence(*args: Any) -> float:
        outcome = run("gate", stored, *args, "--json", "-")
        return json.loads(outcome.out)["settings"]["confidence"]

    assert confidence() == 0.8
    assert confidence("--confidence", 0.9) == 0.9


def test_budgets_of_the_file_reach_the_measurement(here: Path, run: Run, checkpoint: Path):
    (here / "hessdiag.toml").write_text(
        "[gate]\nmax-probes = 32\nmax-seconds = 60\n[gate.max]\nloss = 1e9\n"
    )
    settings = json.loads(run("gate", checkpoint, *FEW, "--json", "-").out)["settings"]
    assert (settings["max_probes"], settings["max_seconds"]) == (32, 60)


# --- outputs -------------------------------------------------------------------------------------

BROKEN = ("--max", "hessian.trace=7", "--max", "loss=1")


def test_the_table_is_shown(run: Run, stored: Path):
    outcome = run("gate", stored, *BROKEN)
    assert outcome.out.startswith(f"the gate fails on {stored}")
    assert "it lies between" in outcome.out
    assert run("gate", stored, *BROKEN, "--quiet").out == ""


def test_files_for_services(run: Run, stored: Path, here: Path):
    outcome = run("gate", stored, *BROKEN, "--junit", "j.xml", "--gitlab", "g.json", "--quiet")
    assert (outcome.code, outcome.out) == (1, "")
    assert ET.parse(here / "j.xml").getroot().attrib["failures"] == "1"
    assert len(json.loads((here / "g.json").read_text())) == 1


def test_github_is_known_by_its_environment(run: Run, stored: Path, here: Path, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "summary.md"))
    (here / "summary.md").write_text("before\n")
    outcome = run("gate", stored, *BROKEN)
    (command,) = (line for line in outcome.out.splitlines() if line.startswith("::"))
    assert command.startswith("::error title=hessdiag gate%3A fail::")
    text = (here / "summary.md").read_text()
    assert text.startswith("before\n### hessdiag gate: fail")
    assert "| pass | loss |" in text
    outcome = run("gate", stored, *BROKEN, "--json", "-")
    assert json.loads(outcome.out)["verdict"] == "fail"
    assert outcome.err.startswith("::error")


@pytest.mark.parametrize("place", ["none/summary.md", ".", "/dev/full", "pipe"])
@pytest.mark.parametrize(("limits", "code"), [(("--max", "loss=99"), 0), (BROKEN, 1)])
def test_a_summary_that_cannot_be_written_changes_no_verdict(
    run: Run, stored: Path, here: Path, monkeypatch: Any, place: str, limits: Any, code: int
):
    os.mkfifo(here / "pipe")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", place)
    outcome = run("gate", stored, *limits, "--quiet")
    assert outcome.code == code
    assert outcome.err.startswith(f"note: there is no step summary: cannot write {place}\n")
