"""The files by which services run the gate."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ACTION = (ROOT / "action.yml").read_text("utf-8")
STEPS = re.findall(r"run: \|\n(.*?)\n      env:", ACTION, re.DOTALL)
INSTALL, GATE = (textwrap.dedent(step) for step in STEPS)


def test_inputs_of_the_action_are_no_part_of_a_script():
    for script in re.findall(r"run: (.*?)\n +env:", ACTION, re.DOTALL):
        assert "${{" not in script


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("", []),
        ("--max loss=1\n  --min 'a b'", ["--max", "loss=1", "--min", "a b"]),
        ("$(touch pwned) `touch pwned`", ["$(touch", "pwned)", "`touch", "pwned`"]),
        ("--max 'unbalanced", None),
    ],
)
def test_the_action_passes_its_arguments_on(tmp_path: Path, args: str, words: list[str] | None):
    python = tmp_path / "home/bin/python"
    python.parent.mkdir(parents=True)
    # runs the step's code, and prints what the gate would be called with
    python.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "os.execv = lambda path, words: (print(*words[1:], sep=chr(10)), sys.exit(3))\n"
        "assert sys.argv[1:3] == ['-I', '-c']\nexec(sys.argv[3])\n"
    )
    python.chmod(0o755)
    checkpoint = "--odd $(touch pwned) name.pt"
    step = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", GATE],
        cwd=tmp_path,
        env={"HOME_OF_GATE": f"{tmp_path}/home", "ARGS": args, "CHECKPOINT": checkpoint},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (tmp_path / "pwned").exists()
    if words is None:  # bad usage is no verdict
        assert (step.returncode, step.stdout) == (2, "")
        return
    assert step.returncode == 3  # the verdict is the step's
    assert step.stdout.splitlines() == ["-I", "-m", "hessdiag", "gate", *words, "--", checkpoint]


def test_the_action_imports_nothing_of_the_checkout():
    calls = re.findall(r"python\S* (?=-)(.*)", f"{INSTALL}\n{GATE}")
    assert len(calls) == 3
    assert all(call.startswith("-I ") for call in calls)


def test_actions_of_others_are_pinned_by_hash():
    texts = [ACTION, *(path.read_text("utf-8") for path in (ROOT / ".github").rglob("*.yml"))]
    uses = [use for text in texts for use in re.findall(r"uses: (.*)", text)]
    assert uses
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", use) for use in uses)


def test_the_hook_runs_the_gate():
    hook = (ROOT / ".pre-commit-hooks.yaml").read_text("utf-8")
    assert "id: hessdiag-gate" in hook
    assert "entry: hessdiag gate\n" in hook
    pattern = re.search(r"files: (.*)", hook)
    assert pattern is not None
    for name, taken in (("run/m.safetensors", True), ("hessdiag.toml", True), ("a.py", False)):
        assert bool(re.search(pattern[1], name)) == taken
