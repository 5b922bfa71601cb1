"""What ``hessdiag train`` measures and writes on demand, and where it starts from."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hessdiag.nets import checkpoints
from hessdiag.training import folder, loop
from tests.cli.conftest import Run
from tests.cli.test_bad_input import refused
from tests.cli.test_train import FILES, TINY

MEASURED = ("--track", "hessian.trace,sparsity.nonzero", "--log-every", 2, "--pac-bayes")


def report(place: Path) -> dict[str, Any]:
    text = (place / folder.REPORT).read_text("utf-8")
    return json.loads(text, parse_constant=lambda name: pytest.fail(name))


def test_a_run_is_reported(run: Run, here: Path) -> None:
    outcome = run("train", *TINY, "--batch-size", 16, *MEASURED, "--out", "run")
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in (here / "run").iterdir()) == sorted([*FILES, folder.STEPS])
    for words in ("hessian.trace: ", "sparsity.nonzero: ", "(1 + ε)(L̂ + √(Cαr²/n))"):
        assert f"\n{words}" in outcome.err
    found = report(here / "run")
    assert found["epochs"] == folder.read_metrics(here / "run")
    assert [*found["epochs"][0]["curvature"]] == ["hessian.trace", "sparsity.nonzero"]
    assert found["pac_bayes"]["value"] > found["pac_bayes"]["empirical_loss"]
    assert found["data"]["num_samples"] == found["pac_bayes"]["num_train"] == 64
    rows = (here / "run" / folder.STEPS).read_text("utf-8").splitlines()
    assert [json.loads(row)["step"] for row in rows] == [2, 4]


def test_options_reach_the_configuration(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "load_data", lambda config, **_: pytest.fail(config.to_toml()))
    with pytest.raises(pytest.fail.Exception) as caught:
        run("train", *MEASURED, "--track-every", 3, "--init", "w.safetensors", "--compile")
    config = folder.Config.from_toml(str(caught.value))
    assert (config.track, config.track_every) == (("hessian.trace", "sparsity.nonzero"), 3)
    assert (config.log_every, config.pac_bayes, config.compile) == (2, True, True)
    assert config.recipe.init == "w.safetensors"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--track", "hesian.trace"), "unknown metric to track.*hesian.trace"),
        (("--track", "hessian.trace,"), "unknown metric to track.*''"),
        (("--track-every", 0), "--track-every is out of range"),
        (("--log-every", 0), "--log-every is out of range"),
        (("--workers", -1), "--workers"),
        (("--init", "none.safetensors"), "cannot read the checkpoint none.safetensors"),
        (("--init", "torchvision"), "no weights for this network.*resnet18"),
        (("--tensorboard",), "needs the package tensorboard.*pip install tensorboard"),
        (("--reg", "gn-trace", "--compile"), "leave --compile out"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[Any, ...], words: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    if args[0] == "--workers":  # of typer, in a box
        outcome = run("train", *TINY, "--out", "run", *args)
        assert outcome.code == 2
        assert words in outcome.err
    else:
        refused(run("train", *TINY, "--out", "run", *args), words)
    assert list(here.iterdir()) == []


def test_a_run_starts_from_another(run: Run, here: Path) -> None:
    assert run("train", *TINY, "--seed", 5, "--out", "a").code == 0
    init = ("--init", "a/model.safetensors", "--lr", 1e-9)
    assert run("train", *TINY, *init, "--out", "b").code == 0
    first, second = (checkpoints.read(here / name / folder.LAST) for name in "ab")
    for name, tensor in first.tensors.items():
        torch.testing.assert_close(second.tensors[name], tensor, atol=1e-6, rtol=0)
    assert first.metadata is not None
    assert second.metadata is not None
    assert (first.metadata.seed, second.metadata.seed) == (5, None)
    assert run("train", "resume", "b").code == 0


def test_torchvisions_weights_are_not_downloaded_unasked(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(here / "hub"))
    args = ("--model", "resnet18", "--epochs", 1, "--num-samples", 4, "--init", "torchvision")
    refused(run("train", *args, "--out", "run"), "not there.*--download.*--init FILE")
    assert list(here.iterdir()) == []


def test_tensorboard_hears_of_each_epoch(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Any, ...]] = []

    class Writer:
        def __init__(self, place: str, **_: str) -> None:
            told.append((place,))

        def add_scalar(self, *scalar: Any) -> None:
            told.append(scalar)

        def flush(self) -> None:
            pass

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert (
        run("train", *TINY[:2], *TINY[4:], "--epochs", 2, "--tensorboard", "--out", "run").code == 0
    )
    assert told[0] == ("run/tensorboard",)
    losses = [(value, number) for name, value, number in told[1:] if name == "train_loss"]
    rows = folder.read_metrics(here / "run")
    assert losses == [(row["train_loss"], row["number"]) for row in rows]
    assert len(losses) == 2
