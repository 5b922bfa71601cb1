"""The command line in this process, and small checkpoints and data to give to it."""

import importlib
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from hessdiag.__main__ import main
from tests import foreign

FAST = ("--num-samples", 20, "--num-probes", 2, "--top-k", 1, "--no-density")
"""Options of a spectrum that takes no time."""


@dataclass
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``hessdiag`` with these arguments."""

    def call(*args: Any) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["hessdiag", *map(str, args)])
        capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train ``mlp-8`` on a hundred digits, once."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    options = ("--model", "mlp-8", "--epochs", "1", "--num-samples", "100", "--out", str(folder))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()):
        patch.setattr(sys, "argv", ["hessdiag", "train", "--quiet", *options])
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code
    return folder / "model.safetensors"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a fresh folder, whose modules can be imported as factories."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def images(path: Path, num_samples: int = 30, **changes: Any) -> Path:
    """Write 8x8 images and their labels as npz, with some arrays changed."""
    random = np.random.default_rng(0)
    arrays = {
        "images": random.integers(0, 256, (num_samples, 8, 8), dtype=np.uint8),
        "labels": np.arange(num_samples) % 10,
    }
    np.savez(path, **(arrays | changes))
    return path


def tampered(path: Path, checkpoint: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write the checkpoint's tensors, changed, with its metadata."""
    tensors = safetensors.torch.load_file(checkpoint)
    change(tensors)
    with safetensors.safe_open(checkpoint, "pt") as opened:
        safetensors.torch.save_file(tensors, path, opened.metadata())
    return path


def plain(path: Path, **shapes: tuple[int, ...]) -> Path:
    """Write tensors of these shapes that say nothing of themselves."""
    safetensors.torch.save_file({name: torch.ones(shape) for name, shape in shapes.items()}, path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of such files, with a module of factories beside them."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "own.py").write_text(foreign.FACTORIES)
    words = torch.randint(5, 95, (400,), generator=torch.Generator().manual_seed(0))
    (folder / "t.txt").write_text(" ".join(foreign.WORDS[word] for word in words.tolist()))
    return folder


@pytest.fixture
def own(place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    return foreign.quietly(lambda: importlib.import_module("own"))
