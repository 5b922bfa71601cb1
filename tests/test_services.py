"""The files by which services run the gate."""

import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ACTION = (ROOT / "action.yml").read_text("utf-8")
SCRIPT = textwrap.dedent(re.search(r"run: \|\n(.*?)\n      env:", ACTION, re.DOTALL)[1])  # type: ignore[index]


def test_inputs_of_the_action_are_no_part_of_a_script():
    for script in re.findall(r"run: (.*?)\n +env:", ACTION, re.DOTALL):
        assert "${{" not in script


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("", []),
        ("--max loss=1\n  --min 'a b'", ["--max", "loss=1", "--min", "'a", "b'"]),
        ("$(touch pwned) `touch pwned`; touch pwned", None),
    ],
)
def test_the_action_passes_its_arguments_on(tmp_path: Path, args: str, words: list[str] | None):
    (tmp_path / "hessdiag").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 3\n')
    (tmp_path / "hessdiag").chmod(0o755)
    checkpoint = "--odd $(touch pwned) name.pt"
    found = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", SCRIPT],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "ARGS": args, "CHECKPOINT": checkpoint},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 3  # the verdict is the step's
    expected = args.split() if words is None else words
    assert found.stdout.splitlines() == ["gate", *expected, "--", checkpoint]
    assert not (tmp_path / "pwned").exists()


def test_the_hook_runs_the_gate():
    hook = (ROOT / ".pre-commit-hooks.yaml").read_text("utf-8")
    assert "id: hessdiag-gate" in hook
    assert "entry: hessdiag gate\n" in hook
    pattern = re.search(r"files: (.*)", hook)
    assert pattern is not None
    for name, taken in (("run/m.safetensors", True), ("hessdiag.toml", True), ("a.py", False)):
        assert bool(re.search(pattern[1], name)) == taken
