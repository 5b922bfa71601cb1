"""Two processes against one: the same steps, the same curvature, one writer."""

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

import hessdiag
from hessdiag.data.datasets import Dataset
from hessdiag.linalg import processes
from hessdiag.nets import checkpoints
from hessdiag.training import folder, loop, recipes
from hessdiag.training.folder import Config
from hessdiag.training.methods import METHODS
from hessdiag.training.run import Run
from tests.training.test_gradients import made

STEPS, NUM_PROCESSES = 5, 2
BATCH_SIZE = 7  # uneven shares, and a last batch of two: one example each
STRENGTHS: dict[str, Any] = {
    "rho": 0.1,
    "sigma2": 1e-3,
    "kappa": 0.01,
    "samples": 2,
    "num_pairs": 2,
}
VARIANTS = {
    **{name: (name, "cross-entropy", {}) for name in METHODS},
    "ablated": ("grad-penalty", "cross-entropy", {"ablate_nme": True}),
    "gn-trace-mse": ("gn-trace", "mse", {}),
    "gn-trace-detached": ("gn-trace", "cross-entropy", {"labels": "detached"}),
}


class Block(nn.Module):
    """Convolution, BatchNorm, GELU, mean: small, and each example's output depends on all."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.GELU(), nn.Flatten(), nn.Linear(12, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def data(size: int = 23) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, 1, 4, 4, generator=generator)
    return Dataset("made up", "train", images, torch.arange(size) % 4, 4)


def config(variant: str, **fields: Any) -> Config:
    name, loss, options = VARIANTS[variant]
    recipe = replace(
        recipes.find("digits-wrn10-1"),
        model=f"{__name__}:Block",
        activation=None,
        epochs=2,
        batch_size=BATCH_SIZE,
        lr=0.05,
        loss=loss,
        augmentation=("flip",),
        method=made(name, {**STRENGTHS, **options}),
    )
    return Config(recipe, **fields)


def weights(variant: str, out: Path) -> dict[str, Tensor]:
    """Take five steps in float64; weights and running statistics after them."""
    run = Run(config(variant), data(), None, out, torch.device("cpu"))
    run.model.double()
    run.feed.inputs = run.feed.inputs.double()  # pyright: ignore[reportAttributeAccessIssue]
    for _ in range(STEPS):
        run.advance()
        if run.step % run.per_epoch == 0:
            run.coming = None
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def spectrum() -> hessdiag.Report:
    torch.manual_seed(0)
    model, sample = Block().double(), data()
    batches = list(zip(sample.inputs.double().split(5), sample.targets.split(5), strict=True))
    return hessdiag.spectrum(model, batches, num_probes=4, top_k=2, per_layer=True)


def member(rank: int, port: int, out: Path) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(NUM_PROCESSES),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    with processes.joined(torch.device("cpu")):
        found = {variant: weights(variant, out) for variant in VARIANTS}
        place = out / "run"
        if processes.is_first():
            place.mkdir()
        tracked = config("sam", track=("hessian.trace", "perturbation.gap"), log_every=2)
        loop.train(tracked, data(), data(10), out=place)
        report = spectrum()
        parts = {name: (part.trace.value, part.top) for name, part in report.parts.items()}
        parts["loss"] = report.loss
        torch.save((found, parts), out / f"{rank}.pt")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run everything once in two processes."""
    out = tmp_path_factory.mktemp("shared")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mp.spawn(member, (port, out), nprocs=NUM_PROCESSES)
    return out


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_take_the_steps_of_one(variant: str, shared: Path, tmp_path: Path) -> None:
    alone = weights(variant, tmp_path)
    for rank in range(NUM_PROCESSES):
        found, _ = torch.load(shared / f"{rank}.pt", weights_only=False)
        for name, tensor in alone.items():
            assert torch.allclose(found[variant][name], tensor, rtol=1e-9, atol=1e-11), name


def test_two_processes_find_the_spectrum_of_one(shared: Path) -> None:
    report = spectrum()
    for rank in range(NUM_PROCESSES):
        _, found = torch.load(shared / f"{rank}.pt", weights_only=False)
        assert found["loss"] == pytest.approx(report.loss, rel=1e-12)
        for name, part in report.parts.items():
            trace, top = found[name]
            assert trace == pytest.approx(part.trace.value, rel=1e-9)
            for theirs, own in zip(top, part.top, strict=True):
                assert theirs.value == pytest.approx(own.value, rel=1e-8)


def test_a_run_of_two_processes_is_written_once_and_is_that_of_one(
    shared: Path, tmp_path: Path
) -> None:
    tracked = config("sam", track=("hessian.trace", "perturbation.gap"), log_every=2)
    loop.train(tracked, data(), data(10), out=tmp_path)
    theirs, own = (folder.read_metrics(place) for place in (shared / "run", tmp_path))
    for left, right in zip(theirs, own, strict=True):
        assert left["test_accuracy"] == right["test_accuracy"]
        assert left["train_loss"] == pytest.approx(right["train_loss"], rel=1e-5)
        for name, reading in right["curvature"].items():
            assert left["curvature"][name]["value"] == pytest.approx(reading["value"], rel=1e-3)
    left, right = (
        checkpoints.read(place / folder.LAST).tensors for place in (shared / "run", tmp_path)
    )
    for name, tensor in right.items():
        assert torch.allclose(left[name], tensor, rtol=1e-5, atol=1e-6), name
