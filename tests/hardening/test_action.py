"""The wheel in an empty environment, and the steps of action.yml as GitHub runs them."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import hessdiag

CHECKOUT = Path(hessdiag.__file__).parents[1]
ACTION: dict[str, Any] = yaml.safe_load((CHECKOUT / "action.yml").read_text("utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
SHADOWS = ("hessdiag", "torch", "pip", "json", "shlex", "sitecustomize")
"""Modules that a repository under test may hold; none may be imported."""
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Runner:
    """A machine of GitHub's: a folder for the runner, a workspace with the user's files."""

    place: Path

    @property
    def workspace(self) -> Path:
        return self.place / "work space"

    def step(self, name: str, **inputs: str) -> subprocess.CompletedProcess[str]:
        """Run a step: expressions only fill its environment, bash runs its script."""
        step = next(one for one in STEPS if one.get("name") == name)
        assert step["shell"] == "bash"
        assert "${{" not in step["run"]  # what others wrote would be part of a script
        known = {
            "inputs": {key: told.get("default", "") for key, told in ACTION["inputs"].items()},
            "github": {"action_path": str(CHECKOUT)},
            "runner": {"temp": str(self.place / "temp")},
        }
        known["inputs"] |= inputs
        env = {
            key: re.sub(r"\$\{\{ (\w+)\.([\w-]+) \}\}", lambda m: known[m[1]][m[2]], value)
            for key, value in step["env"].items()
        }
        script = self.place / "script.sh"
        script.write_text(step["run"])
        (self.place / "summary.md").write_text("")
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", script],
            cwd=self.workspace,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                **{"CI": "true", "GITHUB_ACTIONS": "true", "PYTHONPATH": str(self.workspace)},
                "GITHUB_STEP_SUMMARY": str(self.place / "summary.md"),
                **env,
            },
            capture_output=True,
            text=True,
        )


def lend_dependencies(venv: Path) -> None:
    """Lend an environment what is not to be downloaded again; its own packages come first."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = venv / "lib" / version / "site-packages"
    site.mkdir(parents=True, exist_ok=True)
    (site / "lent.pth").write_text(sysconfig.get_path("purelib"))


def check_index(said: str) -> None:
    if "No matching distribution found for hatchling" in said:
        pytest.skip("no package index gives hatchling, with which to build")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Runner:
    """A runner on which the action is installed."""
    made = Runner(tmp_path_factory.mktemp("runner"))
    for folder in (made.workspace, made.place / "temp"):
        folder.mkdir()
    shutil.copy(samples / "model.safetensors", made.workspace / "a model.safetensors")
    for name in SHADOWS:
        (made.workspace / f"{name}.py").write_text('open("imported", "w")\n')
    lend_dependencies(made.place / "temp" / "hessdiag")
    done = made.step("Install")
    if done.returncode:
        check_index(done.stderr)
    assert done.returncode == 0, done.stderr
    return made


def test_other_actions_are_pinned_by_their_hash():
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", one) for one in used)


@pytest.mark.parametrize(
    ("args", "code", "verdict"),
    [
        ("--max loss=99", 0, "pass"),
        ("--max loss=1e-9 --json 'a report.json'", 1, "fail"),
        ("--max nonsense=1", 2, None),
        ("--max 'loss=1", 2, None),
        ("'; touch touched; $(touch touched) `touch touched`'", 2, None),
    ],
)
def test_the_gate_s_verdict_is_the_step_s(
    runner: Runner, args: str, code: int, verdict: str | None
):
    common = "--num-samples 20 --quiet " if verdict else ""
    done = runner.step("Gate", checkpoint="a model.safetensors", args=common + args)
    summary = (runner.place / "summary.md").read_text("utf-8")
    assert done.returncode == code, done.stdout + done.stderr
    assert summary.startswith(f"### hessdiag gate: {verdict}\n") if verdict else summary == ""
    assert ("::error title=" in done.stdout) == (verdict == "fail")
    assert ("a report.json" in os.listdir(runner.workspace)) or verdict != "fail"
    assert not {"imported", "touched"} & set(os.listdir(runner.workspace))
    assert "Traceback" not in done.stderr


def test_the_wheel_works_in_an_empty_environment(tmp_path: Path, samples: Path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    command = [python, "-I", "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, CHECKOUT]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        check_index(built.stderr)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([python, "-I", "-m", "pip", "install", "--no-deps", wheel], check=True)
    (site,) = tmp_path.glob("venv/lib/python*/site-packages")
    assert (site / "hessdiag" / "py.typed").is_file()
    lend_dependencies(tmp_path / "venv")
    shutil.copy(samples / "model.safetensors", tmp_path)
    for command in (["--version"], ["gate", "model.safetensors", "--max", "loss=99"]):
        script = tmp_path / "venv" / "bin" / "hessdiag"
        done = subprocess.run([script, *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    where = "import hessdiag; print(hessdiag.__file__)"
    done = subprocess.run([python, "-I", "-c", where], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(site)
