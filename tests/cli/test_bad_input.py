"""Bad input: exit code 2, one clear message, nothing half-written."""

import os
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from hessdiag.spectra import spectrum_run as spectra_run
from tests.cli.conftest import FAST, Outcome, Run, images, plain, tampered

Build = Callable[[Path, Path], Sequence[Any]]
"""From the working folder and a good checkpoint to the arguments after ``spectrum``."""

FACTORIES = """
import torch
from torch import nn

def fails():
    raise OSError("the disk is on fire")

def no_module():
    return "a network"

def stops():
    raise SystemExit(0)

class Pair(nn.Linear):
    def forward(self, x):
        return (x, x)
"""


class Evil:
    """A pickle of this makes a folder when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("it-ran",)


def truncated(folder: Path, good: Path) -> Sequence[Any]:
    (folder / "short.safetensors").write_bytes(good.read_bytes()[:-50])
    return ["short.safetensors"]


def corrupted(folder: Path, good: Path) -> Sequence[Any]:
    content = bytearray(good.read_bytes())
    content[8:40] = bytes(32)
    (folder / "bad.safetensors").write_bytes(content)
    return ["bad.safetensors"]


def evil(folder: Path, good: Path) -> Sequence[Any]:
    torch.save({"state_dict": {"layers.0.weight": Evil()}}, folder / "evil.pt")
    return ["evil.pt", "--data", "digits"]


def evil_pickle(folder: Path, good: Path) -> Sequence[Any]:
    (folder / "evil.pth").write_bytes(pickle.dumps(Evil()))
    return ["evil.pth", "--data", "digits"]


def object_inside(folder: Path, good: Path) -> Sequence[Any]:
    torch.save({"layers.0.weight": "a string"}, folder / "text.pt")
    return ["text.pt", "--data", "digits"]


def misfit(folder: Path, good: Path) -> Sequence[Any]:
    return [
        tampered(
            folder / "misfit.safetensors",
            good,
            lambda t: t.update({"layers.0.weight": torch.ones(9, 64), "extra": torch.ones(2)}),
        )
    ]


def weights(value: float) -> Build:
    def build(folder: Path, good: Path) -> Sequence[Any]:
        def spoil(tensors: dict[str, Any]) -> None:
            tensors["layers.2.weight"][0, 0] = value

        return [tampered(folder / "bad.safetensors", good, spoil)]

    return build


def huge_weights(folder: Path, good: Path) -> Sequence[Any]:
    def spoil(tensors: dict[str, Any]) -> None:
        tensors["layers.0.weight"].fill_(3e37)
        tensors["layers.2.weight"].fill_(3e37)

    return [tampered(folder / "huge.safetensors", good, spoil)]


def data(**changes: Any) -> Build:
    def build(folder: Path, good: Path) -> Sequence[Any]:
        return [good, "--data", images(folder / "data.npz", **changes)]

    return build


def options(*args: Any) -> Build:
    return lambda _, good: [good, *args]


def file(name: str) -> Build:
    return lambda folder, _: [folder / name]


def factory(name: str) -> Build:
    def build(folder: Path, good: Path) -> Sequence[Any]:
        (folder / "bad_factories.py").write_text(FACTORIES)
        return [good, "--model", f"bad_factories:{name}"]

    return build


def unrecognised(folder: Path, good: Path) -> Sequence[Any]:
    return [plain(folder / "plain.safetensors", weight=(3, 2)), "--data", "digits"]


def without_data(folder: Path, good: Path) -> Sequence[Any]:
    shapes = {"layers.0.weight": (8, 64), "layers.2.weight": (10, 8)}
    return [plain(folder / "plain.safetensors", **shapes, **{"layers.0.bias": (8,)})]


def nothing_inside(folder: Path, good: Path) -> Sequence[Any]:
    safetensors.torch.save_file({}, folder / "empty.safetensors")
    return ["empty.safetensors"]


FLOATS = np.zeros((30, 1, 8, 8), dtype=np.float32)
BAD: dict[str, tuple[Build, str]] = {
    "missing file": (file("none.safetensors"), "none.safetensors.*No such file"),
    "a folder": (file("."), "no checkpoint of a known form"),
    "unknown suffix": (file("model.onnx"), r"unknown suffix.*\.safetensors"),
    "truncated": (truncated, "short.safetensors is damaged"),
    "corrupted": (corrupted, "bad.safetensors is damaged"),
    "no tensors": (nothing_inside, "holds no tensors"),
    "code in a .pt": (evil, "more than tensors, and loading it could run code"),
    "a bare pickle with code": (evil_pickle, "damaged|more than tensors"),
    "objects in a .pt": (object_inside, "other than tensors.*layers.0.weight"),
    "misfit": (misfit, r"unexpected: extra.*layers.0.weight.*\(9, 64\).*\(8, 64\)"),
    "NaN weights": (weights(float("nan")), "NaN or Inf in layers.2.weight"),
    "Inf weights": (weights(float("inf")), "NaN or Inf in layers.2.weight"),
    "NaN loss": (huge_weights, "the loss is not finite"),
    "NaN inputs": (data(images=np.full_like(FLOATS, np.nan)), "the inputs hold NaN or Inf"),
    "Inf inputs": (data(images=np.full_like(FLOATS, np.inf)), "the inputs hold NaN or Inf"),
    "labels too large": (data(labels=np.arange(30) % 12), "labels (are )?out of range.*0 to 9"),
    "labels negative": (data(labels=np.arange(30) - 1), "labels (are )?out of range"),
    "labels of floats": (data(labels=np.arange(30) / 2), "labels' kind"),
    "no labels": (data(labels=np.arange(29)), "differ in length"),
    "empty data": (data(num_samples=0), "the data is empty"),
    "missing data": (options("--data", "none.npz"), "data file does not exist"),
    "too many samples": (options("--num-samples", 2000), "samples is out of range.*1 to 1442"),
    "other inputs": (data(images=np.zeros((30, 5, 5), np.uint8)), "does not fit|cannot take"),
    "no samples": (options("--num-samples", 0), "--num-samples is out of range"),
    "empty batch": (options("--batch-size", 0), "--batch-size is out of range"),
    "model": (options("--model", "resnet81"), "unknown model.*did you mean resnet18"),
    "part": (options("--part", "nmee"), "unknown part.*did you mean nme"),
    "a part beside all": (options("--part", "all", "--part", "gm"), "unknown part.*gn"),
    "activation": (options("--activation", "gleu"), "unknown activation.*did you mean gelu"),
    "beta": (options("--activation", "beta_gelu", "--beta", -1), "β is out of range"),
    "loss": (options("--loss", "cros-entropy"), "unknown loss.*did you mean cross-entropy"),
    "bn": (options("--bn", "evil"), "unknown BatchNorm mode.*did you mean eval"),
    "dtype": (options("--dtype", "float46"), "unknown dtype.*did you mean float"),
    "split": (options("--split", "tset"), "unknown split.*did you mean test"),
    "data": (options("--data", "digit"), "unknown data.*did you mean digits"),
    "device": (options("--device", "gpu"), "unknown device"),
    "params": (options("--params", "layrs.*"), "no trainable parameter.*layers.0.weight"),
    "no model known": (unrecognised, "not recognised.*--model"),
    "no data known": (without_data, "no data are known.*--data"),
    "top-k": (options("--top-k", 5000), "more eigenvalues.*at most 610"),
    "num-probes": (options("--num-probes", 0), "--num-probes is out of range"),
    "rel-error": (options("--rel-error", 2), "--rel-error is out of range"),
    "factory raises": (factory("fails"), "bad_factories:fails failed.*the disk is on fire"),
    "factory exits": (factory("stops"), "bad_factories:stops failed.*SystemExit"),
    "factory, no module": (factory("no_module"), "returned no network.*str.*torch.nn.Module"),
    "factory, two outputs": (factory("Pair"), "failed"),
    "factory missing": (options("--model", "no_such_module:f"), "cannot import 'no_such_module'"),
    "--bn batch": (options("--bn", "batch", "--batch-size", 4), "whole sample is one batch"),
}


def refused(outcome: Outcome, words: str) -> None:
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert "Traceback" not in outcome.err
    assert re.search(words, outcome.err, re.DOTALL), outcome.err


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, run: Run, checkpoint: Path, here: Path):
    build, words = BAD[name]
    args = build(here, checkpoint)
    before = sorted(here.iterdir())
    outputs = ("--json", "report.json", "--plot", "plot.png", "--top-k", 1, "--num-probes", 2)
    if name not in ("too many samples", "no samples", "empty data"):
        outputs += ("--num-samples", 20)
    refused(run("spectrum", *outputs, *args), words)
    assert [path for path in sorted(here.iterdir()) if path.name != "__pycache__"] == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_cuda_where_there_is_none(run: Run, checkpoint: Path):
    refused(run("spectrum", checkpoint, "--device", "cuda"), "no such CUDA device.*doctor")
    refused(run("train", "--device", "cuda:1"), "no such CUDA device")


@pytest.mark.parametrize("option", ["--json", "--plot"])
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing/report.png", "folder does not exist"),
        ("folder.png", "output path is a folder"),
        ("file/report.png", "folder does not exist"),
        ("x" * 300 + ".png", "cannot write|too long"),
        ("x" * 245 + ".png", ""),
    ],
    ids=["missing", "folder", "below a file", "too long", "nearly too long"],
)
def test_output_paths_are_checked_before_any_work(
    run: Run, checkpoint: Path, here: Path, monkeypatch, option: str, path: str, words: str
):
    (here / "folder.png").mkdir()
    (here / "file").write_text("")
    before = sorted(here.iterdir())
    if words:
        monkeypatch.setattr(
            "hessdiag.subjects.subject.load", lambda *_, **__: pytest.fail("it went on")
        )
        refused(run("spectrum", checkpoint, option, path), words)
        assert sorted(here.iterdir()) == before
    else:
        density = [o for o in FAST if option == "--json" or o != "--no-density"]
        outcome = run("spectrum", checkpoint, *density, option, path)
        assert "Traceback" not in outcome.err
        assert (outcome.code == 0) == (here / path).exists()


def test_a_plot_needs_densities_and_a_known_suffix(run: Run, checkpoint: Path, here: Path):
    args = ("spectrum", checkpoint, "--plot")
    refused(run(*args, "plot.gif"), "unknown kind of plot")
    refused(run(*args, "plot.png", "--no-density"), "draws the densities")
    assert list(here.iterdir()) == []


def test_too_little_memory_is_told(run: Run, checkpoint: Path):
    args = ("spectrum", checkpoint, *FAST, "--memory")
    outcome = run(*args, "150kB")
    assert outcome.code == 0, outcome.err
    assert "memory holds no more" in outcome.out
    refused(run(*args, "1000B"), r"too little memory.*of --memory.*smaller --top-k")
    refused(run(*args, "a lot"), "--memory is no size")


def test_a_report_that_cannot_be_written_leaves_nothing(
    run: Run, checkpoint: Path, here: Path, monkeypatch
):
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    refused(run("spectrum", checkpoint, *FAST, "--json", "r.json"), "cannot write.*No space left")
    assert list(here.iterdir()) == []


def test_an_old_report_survives_a_failure(run: Run, checkpoint: Path, here: Path, monkeypatch):
    (here / "r.json").write_text("old")
    monkeypatch.setattr(spectra_run, "drive", lambda *_, **__: 1 / 0)
    outcome = run("spectrum", checkpoint, *FAST, "--json", "r.json")
    assert outcome.code == 2
    assert "ZeroDivisionError" in outcome.err
    assert [path.name for path in here.iterdir()] == ["r.json"]
    assert (here / "r.json").read_text() == "old"


@pytest.mark.parametrize("kind", ["evil.pt", "evil.pth"])
def test_no_code_is_run(run: Run, checkpoint: Path, here: Path, kind: str):
    build = evil if kind == "evil.pt" else evil_pickle
    run("spectrum", *build(here, checkpoint))
    assert [path.name for path in here.iterdir()] == [kind]
    with (here / kind).open("rb") as file:
        torch.load(file, weights_only=False) if kind == "evil.pt" else pickle.load(file)
    assert (here / "it-ran").exists()  # the trap works
