"""What is known of a run: epochs, steps logged, where it stands, what came of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hessdiag import Decomposition
from hessdiag.curvature.pac_bayes import pac_bayes_bound
from hessdiag.linalg import processes
from hessdiag.metadata import ModelSpec, Provenance
from hessdiag.metrics.metric_reading import Reading
from hessdiag.nets import checkpoints, models
from hessdiag.seeds import stream
from hessdiag.training import folder, loop
from hessdiag.training.feeds import hold_out
from hessdiag.training.history import Epoch, Finished, Standing
from hessdiag.training.run import Run
from tests.training.test_resume import (
    PER_EPOCH,
    RECIPE,
    bad_data,
    bad_steps,
    config,
    go_on,
    sets,
    start,
    stopped,
)

SPEC = ModelSpec("mlp-16", "gelu", None, 10, (1, 8, 8))
EPOCH = Epoch(2, 10, 0.1, 0.5, 0.25, None, 0.75, 0)
CURVATURE = {
    "hessian.trace": Reading(3.0, 0.5, (2.0, 4.0)),
    "gn.lambda_max": Reading(2.0, 1e-3),
    "nme.trace": Reading(1.0, None),
}


# --- epochs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "epoch",
    [EPOCH, replace(EPOCH, validation_accuracy=0.5), replace(EPOCH, curvature=CURVATURE)],
    ids=["plain", "validated", "tracked"],
)
def test_an_epoch_survives_as_a_row(epoch: Epoch) -> None:
    assert Epoch.from_row(epoch.to_row()) == epoch


def test_an_epoch_in_words() -> None:
    assert EPOCH.summary() == "loss 0.5000, train accuracy 25.00%, test accuracy 75.00%"
    alone = replace(EPOCH, test_accuracy=None)
    assert alone.summary() == "loss 0.5000, train accuracy 25.00%"
    both = replace(EPOCH, validation_accuracy=0.5).summary()
    assert both.endswith(", validation accuracy 50.00%, test accuracy 75.00%")


def test_what_is_held_out_chooses_the_best_epoch() -> None:
    assert EPOCH.score == 0.75
    assert replace(EPOCH, validation_accuracy=0.25).score == 0.25
    assert replace(EPOCH, validation_accuracy=0.0).score == 0.0
    assert replace(EPOCH, test_accuracy=None).score is None


@pytest.mark.parametrize(
    ("scores", "number"),
    [([0.1, 0.3, 0.2], 2), ([0.3, 0.3], 1), ([0.0, 0.0], 1), ([None, None], None), ([], None)],
)
def test_the_best_epoch_is_the_first_of_the_best(
    scores: list[float | None], number: int | None
) -> None:
    epochs = tuple(replace(EPOCH, number=i, test_accuracy=s) for i, s in enumerate(scores, 1))
    provenance = Provenance(None, None, ModelSpec("mlp-16"), "digits", "train", None, 16)
    found = Finished(
        config(), Path("m.safetensors"), epochs, provenance, 5, 6, None, 1.0, 2.0, 3, 1, "cpu"
    )
    assert (found.best.number if found.best else None) == number


# --- where a run stands ------------------------------------------------------------------------


def test_a_standing_in_words() -> None:
    now = Standing(3, 10, 2, 0.0123, 0.5, 0.25, 99.6)
    assert now.summary() == "epoch 2, loss 0.500, accuracy 25.0%, lr 0.012, 100 images/s"
    assert replace(now, loss=None, accuracy=None).summary() == "epoch 2, lr 0.012, 100 images/s"


def test_a_run_tells_where_it_stands(tmp_path: Path) -> None:
    steps: list[Standing] = []
    epochs: list[Epoch] = []
    start(tmp_path, config(), on_step=steps.append, on_epoch=epochs.append)
    assert [(now.step, now.epoch) for now in steps] == [
        (step, 1 + (step - 1) // PER_EPOCH) for step in range(1, 3 * PER_EPOCH + 1)
    ]
    for now, epoch in zip(steps[PER_EPOCH - 1 :: PER_EPOCH], epochs, strict=True):
        assert (now.step, now.lr) == (epoch.step, epoch.lr)
        assert (now.loss, now.accuracy) == (epoch.train_loss, epoch.train_accuracy)
    assert all(now.images_per_second > 0 for now in steps)


def test_it_does_not_take_its_share_of_the_right_answers_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _ = sets(72)
    run = Run(config(), data, None, tmp_path, torch.device("cpu"))
    run.advance()
    assert run.standing.accuracy is not None
    monkeypatch.setattr(processes, "count", lambda: 2)
    assert (run.standing.loss, run.standing.accuracy) == (None, None)


def test_nothing_is_known_of_skipped_steps(tmp_path: Path) -> None:
    steps: list[Standing] = []
    data, _ = sets(72)
    data = replace(data, inputs=torch.full_like(data.inputs, 3e38))
    start(tmp_path, config(on_nonfinite="skip"), data, on_step=steps.append)
    assert {(now.loss, now.accuracy) for now in steps} == {(None, None)}


# --- steps logged ------------------------------------------------------------------------------


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / folder.STEPS).read_text("utf-8").splitlines()]


@pytest.mark.parametrize("every", [1, 2, 4])
def test_every_few_steps_have_a_row(tmp_path: Path, every: int) -> None:
    steps: list[Standing] = []
    start(tmp_path, config(log_every=every, recipe=replace(RECIPE, epochs=2)), on_step=steps.append)
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [*range(every, 2 * PER_EPOCH + 1, every)]
    assert [row["lr"] for row in found] == [steps[row["step"] - 1].lr for row in found]
    assert {tuple(row) for row in found} == {("step", "lr", "loss", "gradient_norm")}
    assert all(row["gradient_norm"] > 0 for row in found)
    if every == 1:  # batches of 16 but for the last one of 8
        loss = (16 * sum(row["loss"] for row in found[:4]) + 8 * found[4]["loss"]) / 72
        assert loss == pytest.approx(folder.read_metrics(tmp_path)[0]["train_loss"])
        assert found[0]["loss"] == steps[0].loss


def test_without_being_asked_for_there_are_none(tmp_path: Path) -> None:
    start(tmp_path, config())
    assert not (tmp_path / folder.STEPS).exists()


@pytest.mark.parametrize("save_every", [None, 1])
@pytest.mark.parametrize("stop", [PER_EPOCH + 1, 8, 12])
def test_a_run_that_goes_on_has_the_rows_of_an_undisturbed_one(
    tmp_path: Path, stop: int, save_every: int | None
) -> None:
    given = config("sam", log_every=2, save_every=save_every)
    parts = stopped(tmp_path / "parts", given, stop)
    go_on(parts, given)
    whole = start(tmp_path / "whole", given)
    assert (parts / folder.STEPS).read_bytes() == (whole / folder.STEPS).read_bytes()


def test_skipped_steps_have_none(tmp_path: Path) -> None:
    start(tmp_path, config(log_every=1, on_nonfinite="skip"), bad_data())
    skipped = bad_steps()
    assert [row["step"] for row in rows(tmp_path)] == [
        step for step in range(1, 3 * PER_EPOCH + 1) if step not in skipped
    ]


def test_logging_leaves_the_weights_as_they_are(tmp_path: Path) -> None:
    logged = start(tmp_path / "logged", config("sam", log_every=1))
    alone = start(tmp_path / "alone", config("sam"))
    assert (logged / folder.LAST).read_bytes() == (alone / folder.LAST).read_bytes()


# --- what came of it ---------------------------------------------------------------------------


def test_the_bound_is_that_of_a_random_sample(tmp_path: Path) -> None:
    given = config(recipe=replace(RECIPE, validation=0.2), pac_bayes=True, seed=3, num_samples=200)
    data, test = sets(200)
    found = loop.train(given, data, test, out=tmp_path)
    training, _ = hold_out(200, 0.2, 3)
    generator = torch.Generator().manual_seed(stream(3, "bound"))
    chosen = training[torch.randperm(160, generator=generator)[:128]]
    model = models.build(SPEC)
    checkpoints.load_into(model, checkpoints.read(found.checkpoint))
    sample = [(data.inputs[chosen], data.targets[chosen])]
    wanted = pac_bayes_bound(Decomposition(model, sample), num_train=160, seed=3)
    assert found.pac_bayes is not None
    assert found.pac_bayes.value == pytest.approx(wanted.value, rel=1e-4)
    assert found.pac_bayes.num_train == 160
    assert loop.train(replace(given, pac_bayes=False), data, test, out=tmp_path).pac_bayes is None


def test_what_is_finished_is_told(tmp_path: Path) -> None:
    data, test = sets(72)
    epochs: list[Epoch] = []
    found = loop.train(config(), data, test, out=tmp_path, on_epoch=epochs.append)
    assert found.checkpoint == tmp_path / folder.LAST
    assert found.epochs == tuple(epochs)
    assert found.num_parameters == sum(p.numel() for p in models.build(SPEC).parameters())
    assert (found.num_samples, found.num_processes, found.device) == (72, 1, "cpu")
    assert found.provenance.data_sha256 == data.sha256
    assert found.provenance.model == SPEC
    assert found.images_per_second > 0
    assert found.seconds > 216 / found.images_per_second  # and the time between steps
    assert found.best is not None
    best = checkpoints.read(tmp_path / folder.BEST).metadata
    assert best is not None
    assert best.epoch == found.best.number
