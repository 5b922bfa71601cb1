"""A fault at whatever file operation costs nothing that was there; eight at once mix nothing."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hessdiag
from tests.hardening.crowds import CROWDS
from tests.hardening.faults import build

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a compiler of C")
SCENARIOS = (
    *("run", "resume", "finished", "force", "sweep", "goes-on", "demo"),
    *("gate", "baseline", "page", "plot"),
)


def attack(tmp_path: Path, name: str, share: float) -> list[str]:
    """Attack in a process of its own; list what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.hardening.campaign", name, str(share)],
        capture_output=True,
        text=True,
        cwd=Path(hessdiag.__file__).parents[1],
        env={**os.environ, "LD_PRELOAD": str(build(tmp_path))},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WRONG" not in done.stdout, done.stdout
    return done.stdout.splitlines()


def test_some_faults_and_one_crowd(tmp_path: Path):
    lines = attack(tmp_path, "run,one-folder", 0.01)
    assert [line.partition(":")[0] for line in lines] == ["run", "one-folder"]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_fault(tmp_path: Path, scenario: str):
    (line,) = attack(tmp_path, scenario, 1)
    assert re.match(rf"{scenario}: (\d+) of \1: ", line), line


@pytest.mark.slow
@pytest.mark.parametrize("crowd", CROWDS)
def test_a_thousand_starts(tmp_path: Path, crowd: str):
    assert attack(tmp_path, crowd, 1) == [f"{crowd}: 125 rounds of 8"]
