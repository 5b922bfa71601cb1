"""``hessdiag train`` and ``hessdiag demo``."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hessdiag.nets import checkpoints
from tests.cli.conftest import FAST, Run, images
from tests.cli.test_bad_input import refused

TINY = ("--model", "mlp-8", "--epochs", 1, "--num-samples", 64)


def test_the_path_goes_to_stdout_and_talk_to_stderr(run: Run, here: Path):
    outcome = run("train", *TINY, "--out", "a/b")
    assert outcome.code == 0
    assert outcome.out == "a/b/model.safetensors\n"
    assert re.match(r"epoch 1: loss \d\.\d+, train accuracy .*, test accuracy", outcome.err)
    assert [path.name for path in (here / "a/b").iterdir()] == ["model.safetensors"]


def test_quiet_prints_nothing(run: Run, here: Path):
    outcome = run("train", *TINY, "--out", "run", "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert (here / "run/model.safetensors").exists()


@pytest.mark.parametrize("name", [":smile:", "[red]", "[/]", "a b", "ü"])
def test_the_path_is_printed_as_it_is(run: Run, here: Path, name: str):
    outcome = run("train", *TINY, "--out", name)
    assert outcome.out == f"{name}/model.safetensors\n"
    assert (here / name / "model.safetensors").exists()


def test_the_default_folder_names_recipe_regulariser_and_time(run: Run, here: Path):
    assert run("train", *TINY).code == 0
    (folder,) = (here / "runs").iterdir()
    assert re.fullmatch(r"digits-wrn10-1-none-\d{8}-\d{6}", folder.name)


def test_a_run_is_not_replaced_without_force(run: Run, here: Path):
    assert run("train", *TINY, "--out", "run", "--seed", 1).code == 0
    first = (here / "run/model.safetensors").read_bytes()
    refused(run("train", *TINY, "--out", "run"), "holds a run already.*--force")
    assert (here / "run/model.safetensors").read_bytes() == first
    assert run("train", *TINY, "--out", "run", "--force").code == 0
    assert (here / "run/model.safetensors").read_bytes() != first


def test_options_override_the_recipe_and_reach_the_metadata(run: Run, here: Path):
    options = ("--activation", "beta_gelu", "--beta", 2, "--lr", 0.01, "--batch-size", 16)
    assert run("train", *TINY, *options, "--out", "run").code == 0
    meta = checkpoints.read(here / "run/model.safetensors").metadata
    assert meta is not None
    assert meta.model.activation == "beta_gelu"
    assert meta.model.beta == 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--recipe", "digits-wrn"), "unknown recipe.*did you mean digits-wrn10-1"),
        (("--reg", "nnoe"), "unknown regulariser.*did you mean none"),
        (("--activation", "rleu"), "unknown activation.*did you mean relu"),
        (("--model", "wrn11-1"), "wrn11-1|depth"),
        (("--data", "digist"), "unknown data.*did you mean digits"),
        (("--data", "none.npz"), "data file does not exist"),
        (("--epochs", 0), "epochs is out of range"),
        (("--batch-size", 1), "batch_size is out of range"),
        (("--lr", -1), "lr is out of range"),
        (("--lr", "nan"), "lr is out of range"),
        (("--beta", 2), "takes no β"),
        (("--num-samples", 5000), "samples is out of range"),
        (("--lr", 1e30, "--epochs", 2), "diverged.*smaller --lr"),
        (("--lr", 1e39), "diverged|lr is out of range"),  # beyond float32
    ],
    ids=str,
)
def test_bad_input_leaves_no_checkpoint(run: Run, here: Path, args: tuple[Any, ...], words: str):
    refused(run("train", *TINY, "--out", "run", *args), words)
    assert not [path for path in here.rglob("*") if path.is_file()]


def test_a_refused_run_leaves_no_folder(run: Run, here: Path):
    refused(run("train", "--data", "none.npz"), "does not exist")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_an_out_that_cannot_be_made(run: Run, here: Path, out: str):
    (here / "file").write_text("")
    refused(run("train", *TINY, "--out", out), "cannot make the folder")


def test_a_last_batch_of_one_example(run: Run, here: Path):
    """BatchNorm over 1x1 maps cannot train on a single example."""
    args = ("--model", "resnet18", "--epochs", 1, "--num-samples", 5, "--batch-size", 4)
    outcome = run("train", *args, "--out", "run")
    assert "Traceback" not in outcome.err


def test_a_network_from_a_factory(run: Run, here: Path):
    (here / "trainable_nets.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    args = ("--model", "trainable_nets:net", "--epochs", 1, "--num-samples", 20)
    outcome = run("train", *args, "--out", "run")
    assert outcome.code == 0, outcome.err
    spectrum = ("spectrum", "run/model.safetensors", *FAST)
    refused(run(*spectrum), "--model trainable_nets:net")  # a file does not choose code to run
    assert run(*spectrum, "--model", "trainable_nets:net").code == 0


def test_without_a_test_split_there_is_no_test_accuracy(run: Run, here: Path):
    """A file that holds one split is no test of what was trained on it."""
    data = images(here / "own.npz")
    args = ("--data", data, "--model", "mlp-8", "--epochs", 1, "--out", "run")
    outcome = run("train", *args)
    assert outcome.code == 0
    assert "test accuracy" not in outcome.err
    meta = checkpoints.read(here / "run/model.safetensors").metadata
    assert meta is not None
    assert "test_accuracy" not in meta.metrics


def test_the_recipe_itself_trains_a_wrn(run: Run, here: Path):
    """The default network: a spectrum of it needs nothing but the file."""
    assert run("train", "--epochs", 1, "--num-samples", 64, "--out", "run").code == 0
    args = ("--num-samples", 8, "--num-probes", 2, "--top-k", 0, "--no-density", "--json", "-")
    found = json.loads(run("spectrum", "run/model.safetensors", *args).out)
    assert found["model"]["name"] == "wrn10-1"
    assert found["model"]["activation"] == "gelu"


@pytest.mark.slow
def test_the_demo(run: Run, here: Path):
    outcome = run("demo")
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in (here / "runs/demo").iterdir()) == [
        "model.safetensors",
        "spectrum.json",
        "spectrum.png",
    ]
    for words in ("$ hessdiag train", "$ hessdiag spectrum", "NME N", "Nonlinear Modeling Error"):
        assert words in outcome.out
    found = json.loads((here / "runs/demo/spectrum.json").read_text("utf-8"))
    assert found["loss"]["accuracy"] > 0.9


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Let the demo's two commands do nothing, and note with what they are called."""
    noted: list[dict[str, Any]] = []
    for command in ("train", "spectrum", "sparsity"):
        path = f"hessdiag.cli.{command}.{command}"
        monkeypatch.setattr(path, lambda *_, **options: noted.append(options))
    return noted


@pytest.mark.parametrize("out", ["[red]my runs[red]", "[/]", ":smile:"])
def test_the_demo_shows_its_commands_as_they_are(run: Run, here: Path, calls, out: str):
    outcome = run("demo", "--out", out)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count(out) >= 4
    assert calls[0]["out"] == out
    assert calls[1]["plot"] == f"{out}/spectrum.png"


def test_the_demo_can_be_quiet(run: Run, here: Path, calls):
    assert run("demo", "--quiet").out == ""
    assert [options["quiet"] for options in calls] == [True, True, True]
