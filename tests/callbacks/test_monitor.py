"""Metrics in any loop: their values and costs, what they leave behind; Lightning, Trainer."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import hessdiag
from hessdiag.errors import InputError
from tests.cases import VECTORS, labels, mlp, seeded
from tests.oracles import flat_parameters, hessian, outputs

BATCHES = [(VECTORS[:5], labels(9)[:5]), (VECTORS[5:], labels(9)[5:])]
NAMES = ("hessian.lambda_max", "hessian.lambda_min", "gn.trace", "sparsity.nonzero", "loss")


def network() -> nn.Module:
    return seeded(lambda: mlp(nn.GELU, 4, 5, 3))


def exact(model: nn.Module) -> Tensor:
    whole = [(VECTORS, labels(9))]
    z = outputs(model, whole)
    risk = lambda theta: nn.functional.cross_entropy(z(theta), labels(9))  # noqa: E731
    return torch.linalg.eigvalsh(hessian(risk, flat_parameters(model)))


def moved(model: nn.Module, scale: float) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + scale)
    return model


def test_readings_are_those_of_the_network() -> None:
    model = network()
    before = flat_parameters(model).clone()
    readings = hessdiag.Monitor(NAMES, BATCHES).measure(model)
    assert tuple(readings) == NAMES
    spectrum = exact(model)
    for name, value in (("hessian.lambda_max", spectrum[-1]), ("hessian.lambda_min", spectrum[0])):
        assert readings[name].error is not None
        assert abs(readings[name].value - float(value)) <= readings[name].error + 1e-12
    report = hessdiag.spectrum(model, BATCHES, parts=("gn",), num_probes=8, top_k=0, density=False)
    assert readings["gn.trace"].value == report.parts["gn"].trace.value
    assert readings["loss"].value == report.loss
    assert 0 < readings["sparsity.nonzero"].value <= 1
    assert torch.equal(flat_parameters(model), before)
    assert all(p.grad is None for p in model.parameters())


def test_eigenvalues_cost_a_few_products_once_they_are_known() -> None:
    model, monitor = network(), hessdiag.Monitor(["hessian.lambda_max"], BATCHES)
    monitor.measure(model)
    cold = monitor.num_products
    reading = monitor.measure(moved(model, 1e-3))["hessian.lambda_max"]
    assert monitor.num_products - cold <= 8
    assert abs(reading.value - float(exact(model)[-1])) <= (reading.error or 0.0) + 1e-12


def test_the_kernels_change_is_counted_from_the_first_measurement() -> None:
    model, monitor = network(), hessdiag.Monitor(["ntk.change", "ntk.lambda_max"], BATCHES)
    assert monitor.measure(model)["ntk.change"].value == pytest.approx(0, abs=1e-12)
    found = monitor.measure(moved(model, 0.2))
    assert 0 < found["ntk.change"].value < 1
    assert found["ntk.lambda_max"].value > 0


def test_it_measures_when_it_is_due() -> None:
    monitor = hessdiag.Monitor(["loss"], BATCHES, every_n_steps=3)
    due = [step for step in range(1, 10) if monitor(network(), step)]
    assert due == [3, 6, 9]


def test_what_is_not_finite_is_nan_and_training_goes_on() -> None:
    monitor = hessdiag.Monitor(["hessian.lambda_max", "loss"], BATCHES)
    assert all(
        math.isnan(reading.value) for reading in monitor.measure(moved(network(), 1e200)).values()
    )
    assert math.isfinite(monitor.measure(network())["hessian.lambda_max"].value)


def test_mistakes_are_told_at_once() -> None:
    with pytest.raises(InputError, match=r"did you mean hessian\.lambda_max"):
        hessdiag.Monitor(["hessian.lambdamax"], BATCHES)
    with pytest.raises(InputError, match="`every_n_steps` is out of range"):
        hessdiag.Monitor(["loss"], BATCHES, every_n_steps=0)


def test_batches_that_can_be_read_once_are_kept() -> None:
    monitor = hessdiag.Monitor(["loss"], iter(BATCHES))
    assert monitor.measure(network()) == monitor.measure(network())


def data() -> TensorDataset:
    return TensorDataset(VECTORS.float(), labels(9))


SAMPLE = [(VECTORS.float(), labels(9))]


@pytest.mark.filterwarnings("ignore")  # of lightning's own
def test_lightning_logs_the_readings(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    from lightning.pytorch.loggers import CSVLogger

    from hessdiag.callbacks import LightningMonitor

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network().float()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, _: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    monitor = hessdiag.Monitor(["hessian.lambda_max"], SAMPLE, every_n_steps=2)
    logger = CSVLogger(str(tmp_path))
    trainer = lightning.Trainer(
        max_steps=4,
        accelerator="cpu",
        logger=logger,
        callbacks=[LightningMonitor(monitor)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Module()
    trainer.fit(module, DataLoader(data(), batch_size=3))
    with (Path(logger.log_dir) / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["hessdiag/hessian.lambda_max"]]
    assert [row["step"] for row in rows] == ["2", "4"]
    wanted = monitor.measure(module)["hessian.lambda_max"]
    assert float(rows[-1]["hessdiag/hessian.lambda_max"]) == pytest.approx(wanted.value, rel=1e-3)
    assert "hessdiag/hessian.lambda_max" in trainer.callback_metrics


@pytest.mark.filterwarnings("ignore")  # of transformers' own
def test_the_trainers_history_holds_the_readings(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from hessdiag.callbacks import TrainerMonitor

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network().float()

        def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
            z = self.net(x)
            return (z,) if labels is None else (nn.functional.cross_entropy(z, labels), z)

    monitor = hessdiag.Monitor(["hessian.lambda_max"], SAMPLE, every_n_steps=2)
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=3, report_to=[], use_cpu=True
    )
    rows = [{"x": x, "labels": y} for x, y in data()]
    model = Model()

    class Watching(TrainerMonitor):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_step_end(args, state, control, **{**kwargs, "model": kwargs["model"].net})

    trainer = transformers.Trainer(
        model, arguments, train_dataset=rows, callbacks=[Watching(monitor)]
    )
    trainer.train()
    history = [row for row in trainer.state.log_history if "hessdiag/hessian.lambda_max" in row]
    assert [row["step"] for row in history] == [2, 4]


@pytest.mark.filterwarnings("ignore")  # of transformers' own
def test_a_language_model_is_followed_under_its_own_loss(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from hessdiag.callbacks import TrainerMonitor

    shape = {"vocab_size": 40, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
    model = seeded(lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)))
    ids = labels(6, 8, num_classes=40)
    batch = {"input_ids": ids, "labels": ids}
    monitor = hessdiag.Monitor(["hessian.lambda_max", "loss"], [batch], every_n_steps=2)
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=3, report_to=[], use_cpu=True
    )
    rows = [{"input_ids": row, "labels": row} for row in ids]
    trainer = transformers.Trainer(
        model, arguments, train_dataset=rows, callbacks=[TrainerMonitor(monitor)]
    )
    trainer.train()
    history = [row for row in trainer.state.log_history if "hessdiag/loss" in row]
    assert [row["step"] for row in history] == [2, 4]
    own = model.eval()(**batch).loss.item()
    assert history[-1]["hessdiag/loss"] == pytest.approx(own, rel=1e-4)
