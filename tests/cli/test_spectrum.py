"""``hessdiag spectrum`` on good input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import hessdiag
from hessdiag.data import datasets
from hessdiag.metadata import ModelSpec
from hessdiag.nets import models
from tests.cli.conftest import FAST, Run, images


def report(run: Run, *args: Any) -> dict[str, Any]:
    """Run a spectrum with ``--json -`` and read its stdout, which must hold nothing else."""
    outcome = run("spectrum", *args, "--json", "-")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out, parse_constant=lambda name: pytest.fail(name))


def test_the_checkpoint_alone_is_enough(run: Run, checkpoint: Path):
    found = report(run, checkpoint, "--top-k", 1, "--num-probes", 2, "--no-density")
    assert found["schema"] == "hessdiag.spectrum/1"
    model = {"name": "mlp-8", "activation": "gelu", "beta": None, "trained_with": None}
    assert found["model"] == model
    assert (found["data"]["spec"], found["data"]["split"]) == ("digits", "train")
    assert found["data"]["num_samples"] == 512
    assert found["loss"]["name"] == "cross-entropy"
    assert list(found["parts"]) == ["hessian", "gn", "nme"]
    assert found["checkpoint"]["path"] == str(checkpoint)
    assert found["checkpoint"]["num_parameters"] == 610


def test_the_table_goes_to_stdout_and_nothing_to_stderr(run: Run, checkpoint: Path):
    outcome = run("spectrum", checkpoint, *FAST)
    assert outcome.code == 0
    assert outcome.err == ""
    for words in ("Hessian H", "Gauss-Newton G", "NME N", "±", "mlp-8 gelu on digits (train)"):
        assert words in outcome.out


def test_files_are_written_whole(run: Run, checkpoint: Path, here: Path):
    args = ("--num-samples", 20, "--num-probes", 2, "--top-k", 1, "--depth", 4)
    outcome = run("spectrum", checkpoint, *args, "--json", "r.json", "--plot", "p.png")
    assert outcome.code == 0
    assert "Hessian H" in outcome.out
    assert sorted(path.name for path in here.iterdir()) == ["p.png", "r.json"]
    found = json.loads((here / "r.json").read_text("utf-8"))
    assert found["parts"]["nme"]["density"]["values"]
    with Image.open(here / "p.png") as image:
        image.verify()


def test_quiet_prints_nothing(run: Run, checkpoint: Path, here: Path):
    outcome = run("spectrum", checkpoint, *FAST, "--quiet", "--json", "r.json")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert (here / "r.json").exists()
    assert json.loads(run("spectrum", checkpoint, *FAST, "-q", "--json", "-").out)


def test_parts_may_be_repeated(run: Run, checkpoint: Path):
    found = report(run, checkpoint, *FAST, "--part", "nme", "--part", "gn", "--part", "nme")
    assert list(found["parts"]) == list(found["gradient"]["rayleigh"]) == ["nme", "gn"]
    assert list(report(run, checkpoint, *FAST, "--part", "all")["parts"]) == [
        "hessian",
        "gn",
        "nme",
    ]


def test_it_is_a_thin_layer_over_the_library(run: Run, checkpoint: Path):
    found = report(run, checkpoint, *FAST, "--dtype", "float64", "--seed", 3, "--per-layer")
    spec = ModelSpec("mlp-8", "gelu", None, 10, (1, 8, 8))
    model = models.build(spec).double()
    model.load_state_dict(safetensors.torch.load_file(checkpoint))
    data = datasets.load("digits", num_samples=20, seed=3)
    own = hessdiag.spectrum(
        model,
        [(data.inputs, data.targets)],
        num_probes=2,
        top_k=1,
        density=False,
        seed=3,
        per_layer=True,
    )
    assert found["loss"]["value"] == pytest.approx(own.loss, rel=1e-5)  # statistics are rounded
    assert found["data"]["sha256"] == data.sha256
    for name, part in own.parts.items():
        trace = found["parts"][name]["trace"]
        assert trace["value"] == pytest.approx(part.trace.value, rel=1e-9)
        top = found["parts"][name]["top"][0]
        assert top["value"] == pytest.approx(part.top[0].value, rel=1e-9)
        assert list(found["parts"][name]["layers"]) == list(part.layers or {})


@pytest.mark.parametrize("batch_size", [3, 100])
def test_the_batch_size_is_of_no_account(run: Run, checkpoint: Path, batch_size: int):
    args = (checkpoint, *FAST, "--dtype", "float64")
    whole, cut = report(run, *args), report(run, *args, "--batch-size", batch_size)
    assert cut["settings"]["batch_size"] == batch_size
    for part in ("hessian", "gn", "nme"):
        a, b = whole["parts"][part], cut["parts"][part]
        assert b["trace"]["value"] == pytest.approx(a["trace"]["value"], abs=1e-10)
        assert b["top"][0]["value"] == pytest.approx(a["top"][0]["value"], abs=1e-9)


def test_the_same_seed_gives_the_same_report(run: Run, checkpoint: Path):
    def numbers(seed: int) -> dict[str, Any]:
        found = report(run, checkpoint, *FAST, "--seed", seed)
        return {key: value for key, value in found.items() if key != "cost"}

    assert numbers(1) == numbers(1)
    assert numbers(1)["data"]["sha256"] != numbers(2)["data"]["sha256"]


def test_rel_error(run: Run, checkpoint: Path):
    args = ("--num-samples", 20, "--top-k", 0, "--no-density", "--num-probes", 4)
    found = report(run, checkpoint, *args, "--rel-error", 0.2, "--part", "gn")
    trace = found["parts"]["gn"]["trace"]
    assert trace["target_reached"] is True
    assert trace["rel_error"] <= 0.2
    args = (*args, "--part", "nme")
    outcome = run("spectrum", checkpoint, *args, "--rel-error", 0.001, "--max-probes", 8)
    assert outcome.code == 0  # a missed target is a result
    assert "all 8 probes spent" in outcome.out


def test_other_networks_data_and_losses(run: Run, checkpoint: Path, here: Path):
    found = report(run, checkpoint, *FAST, "--split", "test", "--loss", "mse")
    assert (found["data"]["split"], found["loss"]["name"]) == ("test", "mse")
    found = report(run, checkpoint, *FAST, "--activation", "beta_gelu", "--beta", 3)
    before = {"activation": "gelu", "beta": None}
    model = {"name": "mlp-8", "activation": "beta_gelu", "beta": 3.0, "trained_with": before}
    assert found["model"] == model
    found = report(run, checkpoint, *FAST, "--data", images(here / "own.npz"))
    assert found["data"]["spec"].endswith("own.npz")
    found = report(run, checkpoint, *FAST, "--params", "layers.2.*", "--bn", "batch")
    assert found["checkpoint"]["num_parameters"] == 90
    assert found["settings"]["params"] == ["layers.2.*"]


def test_a_network_from_a_factory(run: Run, here: Path):
    (here / "my_nets.py").write_text(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))\n"
        "def data():\n    import torch\n    return torch.randn(12, 4), torch.arange(12) % 2\n"
    )
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    torch.save({"epoch": 3, "state_dict": net.state_dict()}, here / "net.pt")
    fast = ("--num-probes", 2, "--top-k", 1, "--no-density")
    found = report(run, "net.pt", *fast, "--model", "my_nets:net", "--data", "my_nets:data")
    assert found["model"]["name"] == "my_nets:net"
    assert found["data"]["num_samples"] == 12


@pytest.mark.parametrize("options", [(), ("--batch-size", 4)], ids=["fitting", "given"])
def test_a_regression(run: Run, here: Path, options: tuple[Any, ...]):
    (here / "regressors.py").write_text("from torch import nn\ndef net(): return nn.Linear(4, 2)\n")
    random = np.random.default_rng(0)
    np.savez(here / "data.npz", inputs=random.normal(size=(12, 4)), targets=np.ones((12, 2)))
    net = torch.nn.Linear(4, 2)
    safetensors.torch.save_file(net.state_dict(), here / "net.safetensors")
    args = ("--model", "regressors:net", "--data", "data.npz", "--loss", "mse")
    fast = ("--num-probes", 2, "--top-k", 1, "--no-density")
    found = report(run, "net.safetensors", *fast, *args, *options)
    assert found["loss"]["accuracy"] is None
    assert found["parts"]["gn"]["trace"]["value"] > 0
    assert found["parts"]["nme"]["trace"]["value"] == 0


def test_a_torchvision_resnet_is_recognised(run: Run, here: Path):
    model = models.build(ModelSpec("resnet18", num_classes=4))
    torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}}, here / "r.pth")
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    np.savez(here / "pictures.npz", images=pictures, labels=np.arange(4))
    args = ("--num-probes", 2, "--top-k", 1, "--no-density", "--max-passes", 2, "--part", "nme")
    found = report(run, "r.pth", "--data", "pictures.npz", *args)
    assert found["model"]["name"] == "resnet18"
    assert found["checkpoint"]["num_parameters"] == 11_178_564
    assert found["checks"]["decomposition_residual"] < 1e-4


@pytest.fixture
def fashion(here: Path) -> Path:
    """Write 28x28 bytes in the files that Fashion-MNIST comes in."""
    random = np.random.default_rng(0)
    for split, size in (("train", 90), ("test", 20)):
        labels = np.arange(size, dtype=np.uint8) % 10
        pictures = random.integers(0, 60, (size, 28, 28), dtype=np.uint8)
        pictures[np.arange(size), 2 * labels] += 150
        np.savez(here / f"fashion_{split}.npz", images=pictures, labels=labels)
    return here / "fashion_train.npz"


def test_fashion_mnist_from_files(run: Run, fashion: Path, here: Path):
    options = ("--model", "mlp-8", "--epochs", 2, "--batch-size", 32, "--out", "run")
    outcome = run("train", "--data", fashion, *options)
    assert outcome.code == 0, outcome.err
    assert "test accuracy" in outcome.err
    for split, size in (("train", 90), ("test", 20)):
        args = ("--split", split, "--num-probes", 2, "--top-k", 1, "--no-density")
        found = report(run, "run/model.safetensors", *args)
        assert found["data"]["spec"] == str(fashion)
        assert (found["data"]["split"], found["data"]["num_samples"]) == (split, size)
