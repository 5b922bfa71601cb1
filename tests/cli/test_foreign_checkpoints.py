"""One command each, on files that other libraries wrote."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision

from tests import foreign
from tests.cli.conftest import Run

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_checkpoint_of_lightning(run: Run, place: Path, own: Any) -> None:
    module = foreign.lightning_checkpoint(place / "lit.ckpt", own)
    x, y = own.points()
    loss = float(F.cross_entropy(module(x), y))
    for model in ("own:Lit", "own:net"):  # by its class, or by the network within
        report = foreign.spectrum(run, "lit.ckpt", "--model", model, "--data", "own:points")
        assert report["loss"]["value"] == pytest.approx(loss, rel=1e-5)
    assert any("names without net." in note for note in report["notes"])


def test_a_checkpoint_of_timm_and_its_average(run: Run, place: Path, own: Any) -> None:
    import timm

    states = foreign.timm_checkpoint(place / "timm")
    x, y = own.images()
    for options, state in (((), states["live"]), (("--ema",), states["average"])):
        model = timm.create_model("test_efficientnet", num_classes=10).eval()
        model.load_state_dict(state)
        loss = float(F.cross_entropy(model(x), y))
        args = ("--model", "timm:test_efficientnet", "--data", "own:images", *options)
        report = foreign.spectrum(run, "timm/last.pth.tar", *args)
        assert report["loss"]["value"] == pytest.approx(loss, rel=1e-4)


def test_a_network_of_torchvision(run: Run, place: Path, own: Any) -> None:
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v3_small(num_classes=10).eval()
    torch.save(model.state_dict(), place / "mobile.pth")
    x, y = own.images()
    loss = float(F.cross_entropy(model(x), y))
    named = ("--model", "torchvision:mobilenet_v3_small", "--data", "own:images")
    report = foreign.spectrum(run, "mobile.pth", *named)
    assert report["loss"]["value"] == pytest.approx(loss, rel=1e-4)


def test_a_factory_that_brings_its_weights(run: Run, place: Path, own: Any) -> None:
    x, y = own.points()
    loss = float(F.cross_entropy(own.net()(x), y))
    report = foreign.spectrum(run, "--model", "own:net", "--data", "own:points")
    assert report["loss"]["value"] == pytest.approx(loss, rel=1e-5)
    for args in ((), ("--model", "mlp-4"), ("--model", "own:net", "--ema")):
        assert run("spectrum", *args, "--data", "own:points").code == 2
