"""An output is never an input, nor another output, whatever links and names lead to it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import FAST, Run, images
from tests.cli.test_bad_input import refused
from tests.cli.test_train import TINY

SPECTRUM = ("spectrum", "m.safetensors", *map(str, FAST))
GATE = ("gate", "r.json", "--max", "loss=99")


@pytest.fixture
def place(here: Path, checkpoint: Path) -> Path:
    shutil.copy(checkpoint, here / "m.safetensors")
    shutil.copy(checkpoint, here / "n.safetensors")
    for name in ("r.json", "b.json"):
        (here / name).write_text("{}")
    (here / "hessdiag.toml").write_text('[gate]\nbaseline = "b.json"\nmax = {loss = 99}\n')
    for split in ("train", "test"):
        images(here / f"d_{split}.npz")
    (here / "images/a").mkdir(parents=True)
    (here / "images/a/1.png").write_bytes(b"image")
    (here / "link").symlink_to("m.safetensors")
    os.link(here / "m.safetensors", here / "hard.png")
    (here / "linked").symlink_to(here)
    return here


@pytest.mark.parametrize(
    "args",
    [
        (*SPECTRUM, "--json", "m.safetensors"),
        (*SPECTRUM, "--json", "./link"),
        (*SPECTRUM, "--json", "linked/m.safetensors"),
        (*SPECTRUM, "--plot", "hard.png"),
        (*SPECTRUM, "--data", "d_train.npz", "--json", "d_train.npz"),
        (*SPECTRUM, "--data", "d_train.npz", "--json", "d_test.npz"),
        (*SPECTRUM, "--data", "d_{split}.npz", "--json", "d_test.npz"),
        (*SPECTRUM, "--data", "folder:images", "--plot", "images/a/1.png"),
        (*SPECTRUM, "--data-root", "images", "--plot", "images/a/1.png"),
        (*SPECTRUM, "--json", "pyproject.toml"),
        ("sparsity", "m.safetensors", "--json", "m.safetensors"),
        ("compare", "m.safetensors", "n.safetensors", "--json", "n.safetensors"),
        ("compare", "r.json", "b.json", "--json", "b.json"),
        (*GATE, "--junit", "r.json"),
        (*GATE, "--gitlab", "b.json", "--baseline", "b.json"),
        (*GATE, "--json", "b.json"),
        (*GATE, "--config", "hessdiag.toml", "--json", "hessdiag.toml"),
        ("gate", "m.safetensors", "--write-baseline", "m.safetensors"),
        ("train", "sweep", "--init", "m.safetensors", "--json", "m.safetensors"),
    ],
    ids=" ".join,
)
def test_an_output_that_is_an_input_is_refused(run: Run, place: Path, args: tuple[str, ...]):
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    refused(run(*args), "an output would replace an input")
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_the_data_that_a_checkpoint_names_are_an_input(run: Run, here: Path):
    images(here / "own.npz")
    args = ("--data", "own.npz", "--model", "mlp-8", "--epochs", 1, "--out", "run", "--quiet")
    assert run("train", *args).code == 0
    command = ("spectrum", "run/model.safetensors", *FAST, "--json", "own.npz")
    refused(run(*command), "an output would replace an input.*own.npz")
    np.load(here / "own.npz")


@pytest.mark.parametrize(
    "args",
    [
        (*SPECTRUM, "--json", "x.png", "--plot", "x.png"),
        (*SPECTRUM, "--json", "linked/x.png", "--plot", "./x.png"),
        (*GATE, "--junit", "x", "--gitlab", "x"),
        ("gate", "m.safetensors", "--json", "x", "--write-baseline", "linked/x"),
    ],
    ids=" ".join,
)
def test_two_outputs_are_two_files(run: Run, place: Path, args: tuple[str, ...]):
    refused(run(*args), "two outputs are one file")


def test_other_outputs_are_written_again_and_again(run: Run, here: Path, checkpoint: Path):
    """Beside the checkpoint as well."""
    target = checkpoint.parent / "spectrum.json"
    for _ in range(2):
        assert run("spectrum", checkpoint, *FAST, "--json", target).code == 0
        assert run("report", checkpoint.parent, target, "-o", target.with_suffix(".html")).code == 0
    target.unlink()
    target.with_suffix(".html").unlink()


@pytest.mark.parametrize(
    ("option", "name"), [("--init", "model.safetensors"), ("--data", "best.safetensors")]
)
def test_a_run_does_not_replace_what_it_is_made_of(run: Run, here: Path, option: str, name: str):
    assert run("train", *TINY, "--out", "a").code == 0
    before = {path.name: path.read_bytes() for path in (here / "a").iterdir()}
    (here / "linked").symlink_to("a")
    command = ("train", "--out", "linked", "--force", option, f"a/{name}")
    refused(run(*command), "an output would replace an input")
    assert {path.name: path.read_bytes() for path in (here / "a").iterdir()} == before
