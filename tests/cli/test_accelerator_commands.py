"""Commands on an accelerator, beside the same on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import FAST, Run
from tests.cli.test_resume import stopped

pytestmark = pytest.mark.gpu

UNLIKE = {
    "cost",
    "seconds",
    "checks",
    "density",
    "residual",
    "interval",
    "error",
    "bottom",
    "excess",
}


def test_a_run_of_two_halves_is_the_run_in_one_piece(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, accelerator: torch.device
):
    options = (
        *("--model", "wrn10-1", "--num-samples", 100, "--epochs", 2, "--reg", "grad-penalty"),
        *("--device", accelerator, "--batch-size", 32, "--track", "hessian.trace"),
    )
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert run("train", "--quiet", *options, "--out", whole).code == 0
    stopped(run, monkeypatch, 5, *options, "--out", halves)
    assert run("train", "resume", "--quiet", halves).code == 0
    weights = [(folder / "model.safetensors").read_bytes() for folder in (whole, halves)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    "command",
    [
        ("spectrum", *FAST, "--per-layer", "--finite-radius", 1e-3),
        ("spectrum", *FAST, "--metric", "fisher.trace"),
        ("gate", "--max", "hessian.trace=1e6", "--min", "accuracy=0", "--num-samples", 20),
        ("sparsity", "--num-samples", 20),
        ("landscape", "--num-samples", 20, "--resolution", 3),
        ("blocks", "--num-samples", 20),
    ],
    ids=lambda command: " ".join(map(str, command[:1])),
)
def test_every_command_answers_as_on_the_cpu(
    command: tuple[Any, ...],
    checkpoint: Path,
    tmp_path: Path,
    run: Run,
    accelerator: torch.device,
):
    name, *options = command
    documents: list[dict[str, Any]] = []
    for device in ("cpu", accelerator):
        path = tmp_path / f"{len(documents)}.json"
        outcome = run(name, checkpoint, *options, "--device", device, "--json", path)
        assert outcome.code == 0, outcome.err
        documents.append(json.loads(path.read_text()))
    assert documents[0].keys() == documents[1].keys()
    assert numbers(documents[0]) == pytest.approx(numbers(documents[1]), rel=1e-3, abs=1e-5)


def numbers(document: Any, at: str = "") -> dict[str, float]:
    """Collect what is measured: no costs, no rounding errors."""
    if isinstance(document, dict):
        items = [(key, value) for key, value in document.items() if key not in UNLIKE]
    elif isinstance(document, list):
        items = list(enumerate(document))
    else:
        is_number = isinstance(document, float)
        return {at: document} if is_number else {}
    found: dict[str, float] = {}
    for key, value in items:
        found |= numbers(value, f"{at}.{key}")
    return found
