"""Hostile names of files, given to every command: told as text, or refused; never acted upon."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import FAST, Run

Command = Callable[[str, Path], Sequence[Any]]
NAMES = {
    "newline": "a\nb",
    "return": "a\rb",
    "escape": "\x1b[31mred\x1b[0m\x07",
    "control sequence of C1": "\x9b31m",
    "right to left": "a\u202egpj",
    "no text": os.fsdecode(b"\xff\xfe\xc3"),
    "markup": "<script>alert(1)<svg onload=alert(1)>",
    "of rich": "[bold]a[red]",
    "shell": "$(touch ran)`touch ran`;touch ran",
    "dash": "-rf",
    "option": "--seed=1",
    "annotation": "::error::a%0A",
    "commands": "a\n ::error::b\r::warning::c\n##[error]d##vso[e]",
    "wildcards": "*?[a]{b}",
    "long": "x" * 240,
    "too long": "x" * 5000,
    "dots": "..",
    "nothing": "",
    "space": " ",
}
COMMANDS: dict[str, Command] = {
    "spectrum": lambda name, _: ["spectrum", *FAST, "--", f"{name}.safetensors"],
    "spectrum, data": lambda name, good: ["spectrum", *FAST, f"--data={name}.npz", good],
    "spectrum, folder": lambda name, good: ["spectrum", *FAST, f"--data=folder:{name}", good],
    "spectrum, root": lambda name, good: [
        *("spectrum", *FAST, "--data=mnist", f"--data-root={name}", good)
    ],
    "spectrum, model": lambda name, good: ["spectrum", *FAST, f"--model={name}", good],
    "spectrum, json": lambda name, good: ["spectrum", *FAST, f"--json={name}.json", good],
    "sparsity": lambda name, _: ["sparsity", "--", f"{name}.pt"],
    "landscape": lambda name, _: ["landscape", "--", f"{name}.pth"],
    "gate": lambda name, _: ["gate", "--max=loss=9", "--", f"{name}.json"],
    "gate, config": lambda name, _: ["gate", f"--config={name}", "x.json"],
    "gate, baseline": lambda name, _: ["gate", "--max-increase=loss=9", f"--baseline={name}", "x"],
    "gate, junit": lambda name, _: ["gate", "--max=loss=9", f"--junit={name}", "spectrum.json"],
    "compare": lambda name, _: ["compare", "--", f"{name}.json", f"{name}.json"],
    "compare, checkpoints": lambda name, good: ["compare", "--", good, f"{name}.pt"],
    "report": lambda name, _: ["report", "--", f"{name}.json"],
    "report, output": lambda name, _: ["report", f"--output={name}.html", "spectrum.json"],
    "report, title": lambda name, _: ["report", f"--title={name}", "spectrum.json"],
    "resume": lambda name, _: ["train", "resume", "--", name],
    "train, config": lambda name, _: ["train", f"--config={name}"],
    "train, out": lambda name, _: ["train", "--model=mlp-4", "--lr=1e300", f"--out={name}"],
}
WITH_FILES = {
    "spectrum": "model.safetensors",
    "spectrum, data": "data.npz",
    "gate": "spectrum.json",
    "compare": "spectrum.json",
    "report": "spectrum.json",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "name",
    [
        "".join(NAMES[kind] for kind in ("newline", "escape", "right to left", "markup", "shell")),
        NAMES["commands"],
        *(NAMES[kind] for kind in ("no text", "of rich", "too long")),
        *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES.values()),
    ],
    ids=[
        "mixed",
        "commands, mostly",
        "no text, mostly",
        "of rich, mostly",
        "too long, mostly",
        *NAMES,
    ],
)
def test_a_hostile_name(
    run: Run,
    samples: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    name: str,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "spectrum.json").write_bytes((samples / "spectrum.json").read_bytes())
    source = WITH_FILES.get(command) if 0 < len(name) < 245 else None  # else no suffix, no file
    if source is not None:
        target = tmp_path / f"{name}.{source.partition('.')[2]}"
        target.write_bytes((samples / source).read_bytes())
    outcome = run(*COMMANDS[command](name, samples / "model.safetensors"))
    assert outcome.code in ((0, 2) if source is None else (0,)), outcome.err
    assert "Traceback" not in outcome.err
    shown = outcome.out + outcome.err
    assert shown.replace("\n", "").isprintable()
    assert not any(line.lstrip().startswith("::") for line in shown.splitlines())
    assert re.search(r"##\w*\[", shown) is None
    for page in tmp_path.glob("*.html"):
        assert "<script" not in (content := page.read_text("utf-8"))
        assert "<svg onload" not in content
    assert not (tmp_path / "ran").exists()
