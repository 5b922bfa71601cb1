"""``hessdiag sparsity``: what it says, what it writes, what it refuses."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import safetensors.torch
import torch
from PIL import Image

import hessdiag
from hessdiag.data import datasets
from tests.cli.conftest import Outcome, Run

FRESH = ("--model", "mlp-8", "--num-samples", 20)
GELU = ("--activation", "gelu", *FRESH)
NETS = """
from torch import nn
def linear(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def swishes(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Hardswish())
"""


@pytest.fixture
def nets(here: Path) -> Path:
    (here / "sparse_nets.py").write_text(NETS)
    return here


def report(run: Run, *args: Any) -> dict[str, Any]:
    outcome = run("sparsity", *args, "--json", "-")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    found = json.loads(outcome.out, parse_constant=lambda name: pytest.fail(name))
    assert found["schema"] == "hessdiag.sparsity/1"
    return found


def test_an_activation_alone(run: Run):
    outcome = run("sparsity", "--activation", "beta_gelu", "--beta", 50, *FRESH)
    assert (outcome.code, outcome.err) == (0, "")
    for words in ("φ'' of beta_gelu(50), max |φ''| = 39.89", "|x| < 0.28", "Gaussian, σ = 0.1"):
        assert words in outcome.out
    assert "fresh mlp-8 on digits" in outcome.out


def test_an_activation_alone_by_default_looks_at_a_small_wrn(run: Run):
    found = report(run, "--activation", "gelu", "--num-samples", 8)
    model = {"name": "wrn10-1", "activation": "gelu", "beta": None, "trained_with": None}
    assert found["model"] == model
    assert found["checkpoint"]["path"] is None
    (study,) = found["activations"]
    assert study["trained"] is None
    assert len(study["initial"]["calls"]) == 7


def test_a_list_of_betas_is_a_sweep(run: Run):
    outcome = run("sparsity", "--activation", "beta_gelu", "--beta", "1, 2,5", *FRESH)
    assert outcome.code == 0, outcome.err
    assert "beta_gelu by β in mlp-8 on digits (train)" in outcome.out
    rows = [line.split()[0] for line in outcome.out.splitlines()[5:8]]
    assert rows == ["1", "2", "5"]
    found = report(run, "--activation", "swish", "--beta", "5,1", *FRESH)
    assert [study["beta"] for study in found["activations"]] == [5, 1]


def test_a_checkpoint_is_looked_at_before_and_after(run: Run, checkpoint: Path):
    outcome = run("sparsity", checkpoint, "--num-samples", 20)
    assert (outcome.code, outcome.err) == (0, "")
    for words in ("mlp-8 gelu on digits (train)", "init σ", "layers.1"):
        assert words in outcome.out
    found = report(run, checkpoint, "--num-samples", 20)
    (study,) = found["activations"]
    assert study["activation"] == "gelu"
    assert study["initial"]["calls"][0]["std"] != study["trained"]["calls"][0]["std"]
    assert found["checkpoint"]["path"] == str(checkpoint)


def test_without_the_network_before_training(run: Run, checkpoint: Path):
    args = (checkpoint, "--num-samples", 20, "--no-initial")
    assert report(run, *args)["activations"][0]["initial"] is None
    assert "init" not in run("sparsity", *args).out


def test_a_checkpoint_with_another_activation(run: Run, checkpoint: Path):
    args = (checkpoint, "--num-samples", 20, "--activation", "beta_gelu")
    found = report(run, *args, "--beta", 3)
    before = {"activation": "gelu", "beta": None}
    model = {"name": "mlp-8", "activation": "beta_gelu", "beta": 3, "trained_with": before}
    assert found["model"] == model
    assert "what if: trained with gelu" in run("sparsity", *args, "--beta", 3).out
    outcome = run("sparsity", *args, "--beta", "1,10")
    for words in ("beta_gelu by β", "trained", "init"):
        assert words in outcome.out


def test_norms_of_blocks(run: Run, checkpoint: Path):
    args = (checkpoint, "--num-samples", 20, "--with-nme", "--num-probes", 2)
    norms = report(run, *args)["activations"][0]["trained"]["block_norms"]
    names = [f"layers.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")]
    assert list(norms) == names
    assert norms["layers.0.weight"]["num_probes"] == 2
    out = run("sparsity", *args).out
    assert all(name in out for name in ("Within-layer blocks of N", *names))


def test_it_is_a_thin_layer_over_the_library(run: Run, checkpoint: Path):
    from hessdiag.sparsities.sparsity_run import sparsity
    from hessdiag.subjects import subject

    found = report(run, checkpoint, "--num-samples", 20, "--dtype", "float64", "--seed", 3)
    at = subject.load(str(checkpoint), num_samples=20, dtype="float64", seed=3)
    own = sparsity(at.model, at.batches(), dtype=at.dtype)
    total = found["activations"][0]["trained"]["total"]
    assert total["mean_abs"] == own.total.mean_abs
    assert total["above"] == own.total.above
    assert found["data"]["sha256"] == datasets.load("digits", num_samples=20, seed=3).sha256
    assert found["version"] == hessdiag.__version__


def test_a_network_of_ones_own(run: Run, nets: Path):
    args = ("--model", "sparse_nets:swishes", "--num-samples", 20)
    outcome = run("sparsity", *args)
    assert outcome.code == 0, outcome.err
    assert "φ'' of hardswish (1 call) is not known in closed form" in outcome.out
    found = report(run, *args)
    assert found["activations"][0]["profile"] is None
    assert "hardswish" in found["notes"][0]


@pytest.mark.parametrize("args", [GELU, ("--activation", "beta_gelu", "--beta", "1,9", *FRESH)])
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plots(run: Run, here: Path, args: tuple[Any, ...], suffix: str):
    outcome = run("sparsity", *args, "--plot", f"p{suffix}", "--json", "r.json", "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert sorted(path.name for path in here.iterdir()) == [f"p{suffix}", "r.json"]
    if suffix == ".png":
        with Image.open(here / "p.png") as image:
            image.verify()
    else:
        assert ElementTree.parse(here / "p.svg").getroot().tag.endswith("svg")


def test_the_plot_of_a_checkpoint(run: Run, checkpoint: Path, here: Path):
    assert run("sparsity", checkpoint, "--num-samples", 20, "--plot", "p.svg").code == 0
    assert ElementTree.parse(here / "p.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize("activation", ["squared_relu", "relu", "softplus"])
def test_json_is_finite(run: Run, activation: str):
    found = report(run, "--activation", activation, *FRESH)
    if activation == "squared_relu":
        assert found["activations"][0]["profile"]["nonzero"][0]["high"] is None
        assert "null" in found["notes"][0]


def test_the_same_seed_gives_the_same_report(run: Run):
    a, b = (report(run, *GELU, "--seed", 4, "--with-nme") for _ in range(2))
    assert a.pop("cost") != {}
    assert b.pop("cost") != {}
    assert a == b


def refused(outcome: Outcome, words: str) -> None:
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("error: ") == 1
    assert "Traceback" not in outcome.err
    assert re.search(words, outcome.err, re.DOTALL), outcome.err


BETA_GELU = ("--activation", "beta_gelu", *FRESH)
BAD: dict[str, tuple[tuple[Any, ...], str]] = {
    "nothing": ((), "nothing to look at.*--activation with one of relu"),
    "activation": (("--activation", "gleu", *FRESH), "unknown activation.*did you mean.*gelu"),
    "no activation": (("--activation", "", *FRESH), "unknown activation"),
    "no beta": (BETA_GELU, "beta_gelu needs a β"),
    "beta 0": ((*BETA_GELU, "--beta", 0), "β is out of range.*0"),
    "beta -1": ((*BETA_GELU, "--beta", -1), "β is out of range.*-1"),
    "beta nan": ((*BETA_GELU, "--beta", "nan"), "β is out of range.*nan"),
    "beta inf": ((*BETA_GELU, "--beta", "inf"), "β is out of range.*inf"),
    "beta text": ((*BETA_GELU, "--beta", "many"), "β is not a number.*'many'"),
    "beta empty": ((*BETA_GELU, "--beta", ""), "β is not a number"),
    "an empty item": ((*BETA_GELU, "--beta", "1,,2"), "β is not a number.*'1,,2'"),
    "one bad of many": ((*BETA_GELU, "--beta", "1,2,-3"), "β is out of range.*-3"),
    "beta without": ((*GELU, "--beta", 2), "gelu takes no β.*beta_gelu"),
    "list without": ((*GELU, "--beta", "1,2"), "gelu takes no β"),
    "beta and no activation": ((*FRESH, "--beta", 2), "takes no β|needs an activation"),
    "threshold": ((*GELU, "--threshold", 1), "threshold is out of range"),
    "threshold -1": ((*GELU, "--threshold", -1), "threshold is out of range"),
    "threshold nan": ((*GELU, "--threshold", "nan"), "threshold is out of range"),
    "probes": ((*GELU, "--num-probes", 0), "--num-probes is out of range"),
    "checkpoint": (("none.safetensors",), "none.safetensors.*No such file"),
    "model": (("--model", "resnet81"), "unknown model.*did you mean resnet18"),
    "linear": (
        ("--model", "sparse_nets:linear", "--num-samples", 9),
        "has no activation that is recognised",
    ),
    "factory, beta": (("--model", "sparse_nets:swishes", "--beta", 2), "chooses its own"),
    "factory, betas": (("--model", "sparse_nets:swishes", "--beta", "1,2"), "chooses its own"),
    "json": ((*GELU, "--json", "missing/r.json"), "folder does not exist"),
    "plot": ((*GELU, "--plot", "missing/p.png"), "folder does not exist"),
    "suffix": ((*GELU, "--plot", "p.gif"), "unknown kind of plot"),
    "bn": ((*GELU, "--bn", "evil"), "unknown BatchNorm mode.*did you mean eval"),
    "data": ((*GELU, "--data", "digit"), "unknown data.*did you mean digits"),
    "samples": ((*GELU, "--num-samples", 0), "--num-samples is out of range"),
    "loss": ((*GELU, "--loss", "cros-entropy"), "unknown loss"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, run: Run, nets: Path):
    args, words = BAD[name]
    before = sorted(nets.iterdir())
    outputs = ("--json", "r.json", "--plot", "p.png")
    refused(run("sparsity", *outputs, *args), words)
    assert [path for path in sorted(nets.iterdir()) if path.name != "__pycache__"] == before


@pytest.mark.parametrize("args", [("--threshold", "x"), ("--num-probes", "1.5"), ("--betta", 1)])
def test_bad_usage(run: Run, here: Path, args: tuple[Any, ...]):
    outcome = run("sparsity", *GELU, "--json", "r.json", *args)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("Error") == 1
    assert list(here.iterdir()) == []


def test_a_beta_for_a_checkpoint_without_one(run: Run, checkpoint: Path):
    refused(run("sparsity", checkpoint, "--beta", 3), "gelu takes no β")
    refused(run("sparsity", checkpoint, "--activation", "beta_gelu"), "needs a β")


def test_an_unknown_seed_of_training_is_said(run: Run, checkpoint: Path, tmp_path: Path):
    torch.save(safetensors.torch.load_file(checkpoint), tmp_path / "plain.pt")
    args = (tmp_path / "plain.pt", "--activation", "gelu", "--data", "digits", "--num-samples", 20)
    assert "another draw" in run("sparsity", *args).out
    assert "another draw" not in run("sparsity", *args, "--no-initial").out
    assert "another draw" not in run("sparsity", checkpoint, "--num-samples", 20).out
