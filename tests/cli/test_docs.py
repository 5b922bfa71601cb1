"""What the documents say of commands and reports is what there is."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hessdiag.cli.app import app
from tests.cli.conftest import Run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
JSON = (ROOT / "docs/json.md").read_text("utf-8")
DYNAMIC = {
    "passes",
    "products",
    "layers",
    "block_norms",
    "rayleigh",
    "parts",
    "curvature",
    "readings",
}
"""Objects whose keys are names of parameters, parts, algorithms or metrics."""


def keys(value: Any, inside: str = "") -> set[str]:
    """Collect the fixed keys of a report."""
    if isinstance(value, list):
        return set().union(*(keys(item, inside) for item in value))
    if not isinstance(value, dict):
        return set()
    own = set() if inside in DYNAMIC else set(value)
    return own.union(*(keys(item, name) for name, item in value.items()))


def documented(schema: str) -> set[str]:
    """Collect the keys that the documents name for all reports and for this one."""
    common, *sections = JSON.split("\n## ")
    (section,) = (text for text in sections if text.startswith(f"`{schema}`"))
    return set(re.findall(r'"(\w+)"', common + section))


@pytest.mark.parametrize("command", [info.name for info in app.registered_commands])
def test_the_readme_names_every_command(command: str):
    assert re.search(rf"^\| `hessdiag {command}[ `]", README, re.MULTILINE)


@pytest.mark.parametrize(
    "args",
    [
        ("spectrum", "--per-layer", "--num-probes", 3, "--rel-error", 0.9, "--finite-radius", 0.1),
        ("sparsity", "--with-nme", "--num-probes", 2),
        ("landscape", "--resolution", 3, "--num-probes", 2),
        ("landscape", "--resolution", 3, "--plane", "gn"),
        ("gate", "--max", "hessian.trace=1e9"),
    ],
)
def test_every_key_of_a_report_is_documented(run: Run, checkpoint: Path, args: tuple[Any, ...]):
    command, *options = args
    outcome = run(command, checkpoint, *options, "--num-samples", 20, "--json", "-")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    schema = found["schema"]
    assert keys(found) <= documented(schema), keys(found) - documented(schema)
