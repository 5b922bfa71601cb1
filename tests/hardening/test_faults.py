"""A fault at whatever file operation costs nothing that was there, and is told in words."""

import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.hardening.faults import ENDS, Outcome, run

TINY = ("--model", "mlp-4", "--num-samples", 20, "--batch-size", 8, "--epochs", 2, "--quiet")
TRAIN = ("train", *TINY, "--save-every", 1, "--out", "run")
RESUME = ("train", "resume", "run", "--quiet")
SWEEP = ("train", "sweep", *TINY, "--reg", "none,sam", "--seed", 0, "--out", "run")
RESULTS = ("model.safetensors", "best.safetensors", "metrics.jsonl", "config.toml")
ENDINGS = {"SIGKILL": {0, -signal.SIGKILL}, "SIGINT": {130, 0, -signal.SIGINT}}


def results(place: Path) -> dict[str, bytes]:
    """What a run or a sweep came to; reports hold times."""
    found = {p.relative_to(place): p for p in sorted(place.rglob("*")) if p.is_file()}
    names = (*RESULTS, "report.json", "curves.png", "sweep.json")
    return {
        str(name): path.read_bytes() if path.name in RESULTS else b""
        for name, path in found.items()
        if path.name in names
    }


def check(outcome: Outcome, end: str) -> None:
    assert outcome.code in ENDINGS.get(end, {0, 2}), outcome
    assert "Traceback" not in outcome.err
    assert "unforeseen" not in outcome.err
    if outcome.code == 2:
        assert outcome.err.count("error: ") == 1


def finish(place: Path, command: tuple[Any, ...], whole: dict[str, bytes]) -> None:
    """Go on after a fault, and compare with what was never disturbed."""
    begun = (place / "run/config.toml").exists()
    outcome = run(place, *(RESUME if command[1] != "sweep" and begun else command))
    assert outcome.code == 0, outcome
    assert results(place / "run") == whole
    assert list(place.rglob(".hessdiag-*")) == []


def faults(count: int, share: float) -> Iterator[tuple[int, str]]:
    """All faults, or a share of them at random."""
    draw = Random(0)
    every = [(at, end) for at in range(1, count + 1) for end in ENDS]
    return iter(every if share == 1 else draw.sample(every, max(1, round(share * len(every)))))


def undisturbed(place: Path, command: tuple[Any, ...]) -> tuple[int, dict[str, bytes]]:
    place.mkdir()
    outcome = run(place, *command)
    assert outcome.code == 0, outcome
    return outcome.count, results(place / "run")


SHARES = [0.004, pytest.param(1.0, marks=pytest.mark.slow)]


@pytest.mark.parametrize("share", SHARES)
def test_a_run(tmp_path: Path, share: float):
    count, whole = undisturbed(tmp_path / "whole", TRAIN)
    assert count > 100
    for at, end in faults(count, share):
        place = tmp_path / f"{at}-{end}"
        place.mkdir()
        check(run(place, *TRAIN, at=at, end=end), end)
        finish(place, TRAIN, whole)


@pytest.mark.parametrize("share", SHARES)
def test_a_run_that_goes_on(tmp_path: Path, share: float):
    count, whole = undisturbed(tmp_path / "whole", TRAIN)
    for at, end in faults(count, share):
        place = tmp_path / f"{at}-{end}"
        place.mkdir()
        run(place, *TRAIN, at=count // 3, end="SIGKILL")
        check(run(place, *RESUME, at=at, end=end), end)
        finish(place, TRAIN, whole)


@pytest.mark.parametrize("share", [0.001, pytest.param(1.0, marks=pytest.mark.slow)])
def test_a_sweep(tmp_path: Path, share: float):
    count, whole = undisturbed(tmp_path / "whole", SWEEP)
    assert len([name for name in whole if name.endswith("report.json")]) == 2
    for at, end in faults(count, share):
        place = tmp_path / f"{at}-{end}"
        place.mkdir()
        check(run(place, *SWEEP, at=at, end=end), end)
        finish(place, SWEEP, whole)


GATE = ("gate", "s.json", "--max", "loss=99", "--quiet")
OUTPUTS = {
    "--json": (*GATE, "--json"),
    "--junit": (*GATE, "--junit"),
    "--gitlab": (*GATE, "--gitlab"),
    "--output": ("report", "s.json", "--quiet", "--output"),
    "--plot": ("sparsity", "--activation", "gelu", "--quiet", "--plot"),
}


@pytest.mark.parametrize("share", [0.02, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", OUTPUTS.values(), ids=OUTPUTS)
def test_an_output(tmp_path: Path, samples: Path, command: tuple[str, ...], share: float):
    """Whatever happens, the file is the old one or the new one, whole."""
    report = (samples / "spectrum.json").read_text()
    name = "out.html" if command[0] == "report" else "out.svg"
    for at, end in faults(40, share):
        place = tmp_path / f"{at}-{end}"
        place.mkdir()
        (place / "s.json").write_text(report)
        (place / name).write_text("old")
        check(outcome := run(place, *command, name, at=at, end=end), end)
        content = (place / name).read_text()
        assert content == "old" or content.rstrip()[-1] in "]}>"
        if outcome.code == 0 and not end.startswith("SIG"):
            assert content != "old"
        assert (place / "s.json").read_text() == report
        if end != "SIGKILL":
            assert [path.name for path in place.glob(".hessdiag-*")] == []
