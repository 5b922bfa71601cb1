"""A run's steps: what they start from, what they see, which of them are left out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs
from torch import Tensor

from hessdiag.errors import InputError
from hessdiag.metadata import Metadata, ModelSpec
from hessdiag.nets import checkpoints, models
from hessdiag.seeds import stream
from hessdiag.subjects.subject import load
from hessdiag.training import folder, loop, methods, state
from hessdiag.training import run as runs
from hessdiag.training.folder import Config
from hessdiag.training.history import Epoch
from hessdiag.training.task import Task
from tests.training.test_resume import (
    PER_EPOCH,
    RECIPE,
    WRN,
    bad_data,
    bad_steps,
    config,
    go_on,
    orders,
    refusal,
    results,
    same_again,
    sets,
    start,
    stopped,
)

SPEC = ModelSpec("mlp-16", "gelu", None, 10, (1, 8, 8))


# --- what a run starts from --------------------------------------------------------------------


@pytest.fixture
def init(tmp_path: Path) -> Path:
    """A checkpoint of a network that none of the tests' seeds makes."""
    path = tmp_path / "init.safetensors"
    checkpoints.save(path, models.build(SPEC, seed=123), Metadata(SPEC))
    return path


def starting(init: Path | str, **fields: Any) -> Config:
    return config(recipe=replace(RECIPE, init=str(init), epochs=2), **fields)


def still(given: Config) -> Config:
    """The same run with steps that hardly move the weights."""
    return replace(given, recipe=replace(given.recipe, lr=1e-9, weight_decay=0.0, epochs=1))


def weights(out: Path) -> dict[str, Tensor]:
    return checkpoints.read(out / folder.LAST).tensors


def test_a_run_starts_from_a_checkpoint(tmp_path: Path, init: Path) -> None:
    found = weights(start(tmp_path / "run", still(starting(init))))
    fresh = weights(start(tmp_path / "fresh", still(config())))
    for name, tensor in checkpoints.read(init).tensors.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=0)
        assert (fresh[name] - tensor).abs().max() > 0.01


def test_its_checkpoint_and_configuration_tell(tmp_path: Path, init: Path) -> None:
    given = starting(init, seed=5)
    out = start(tmp_path / "run", given)
    metadata = checkpoints.read(out / folder.LAST).metadata
    assert metadata is not None
    assert metadata.seed is None  # no seed gives the weights that it started from
    assert not load(str(out / folder.LAST)).seed_is_known
    assert folder.read_config(out) == given
    assert f'init = "{init}"' in (out / folder.CONFIG).read_text("utf-8")


def test_it_goes_on_though_the_checkpoint_is_gone(tmp_path: Path, init: Path) -> None:
    given = starting(init)
    whole = start(tmp_path / "whole", given)
    parts = stopped(tmp_path / "parts", given, 7)
    init.unlink()
    go_on(parts, given)
    assert results(parts) == results(whole)


def test_classes_may_differ_from_the_checkpoints(tmp_path: Path) -> None:
    spec = structs.replace(SPEC, num_classes=3)
    checkpoints.save(tmp_path / "m.safetensors", models.build(spec, seed=9), Metadata(spec))
    found = weights(start(tmp_path / "run", still(starting(tmp_path / "m.safetensors"))))
    own = checkpoints.read(tmp_path / "m.safetensors").tensors
    fresh = models.build(SPEC, seed=stream(0, "init")).state_dict()
    first, head = (name for name in fresh if name.endswith("weight"))
    torch.testing.assert_close(found[first], own[first], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[head], fresh[head], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["none.safetensors", "torchvision"])
def test_weights_that_cannot_be_had_cost_no_earlier_run(tmp_path: Path, name: str) -> None:
    out = start(tmp_path / "run", config())
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError):
        start(out, starting(name))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


# --- what a step sees --------------------------------------------------------------------------


def seen(monkeypatch: pytest.MonkeyPatch, out: Path, given: Config) -> list[tuple[Tensor, Tensor]]:
    """The batches of a run."""
    batches: list[tuple[Tensor, Tensor]] = []

    def note(objective: Any, x: Tensor, y: Tensor, *rest: Any) -> Task:
        batches.append((x.clone(), y.clone()))
        return Task(objective, x, y, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "Task", note)
        start(out, given)
    return batches


def equal(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, v) and torch.equal(y, w) for (x, y), (v, w) in zip(a, b, strict=True)
    )


def test_runs_that_differ_in_the_method_alone_see_the_same_batches(tmp_path: Path, monkeypatch):
    recipe = replace(RECIPE, augmentation=("flip", "crop4"), validation=0.1)
    found = [
        seen(monkeypatch, tmp_path / name, config(name, recipe=recipe)) for name in methods.METHODS
    ]
    assert len(found[0]) == 3 * 4  # 65 examples: the last batch of one is left out
    assert all(equal(found[0], other) for other in found[1:])
    other = seen(monkeypatch, tmp_path / "seed", config(recipe=recipe, seed=1))
    assert not equal(found[0], other)


def test_every_epoch_sees_all_examples_in_its_own_order(tmp_path: Path, monkeypatch):
    data, _ = sets(72)
    found = seen(monkeypatch, tmp_path, config(seed=4))
    wanted = [index for order in orders(72, 4, epochs=3) for index in order.split(16)]
    assert equal(found, [(data.inputs[index], data.targets[index]) for index in wanted])


def test_a_run_that_goes_on_sees_the_batches_that_are_left(tmp_path: Path, monkeypatch):
    recipe = replace(RECIPE, augmentation=("flip", "crop4"))
    whole = seen(monkeypatch, tmp_path / "whole", config(recipe=recipe))
    parts = stopped(tmp_path / "parts", config(recipe=recipe), 8)
    batches: list[tuple[Tensor, Tensor]] = []

    def note(objective: Any, x: Tensor, y: Tensor, *rest: Any) -> Task:
        batches.append((x.clone(), y.clone()))
        return Task(objective, x, y, *rest)

    monkeypatch.setattr(runs, "Task", note)
    go_on(parts, config(recipe=recipe))
    assert equal(batches, whole[7:])


def test_what_is_held_out_is_never_trained_on(tmp_path: Path):
    data, _ = sets(72)
    known = {row.numpy().tobytes(): index for index, row in enumerate(data.inputs)}
    assert len(known) == 72
    chosen: list[set[int]] = []
    for method, seed in (("none", 0), ("sam", 0), ("none", 1)):
        given = config(method, recipe=replace(RECIPE, validation=0.25), seed=seed)
        run = runs.Run(given, data, None, tmp_path, torch.device("cpu"))
        trained = {known[row.numpy().tobytes()] for row in data.inputs[run.training]}
        assert len(run.training) == len(trained) == 54
        assert trained.isdisjoint(run.held_out.tolist())
        assert trained | {*run.held_out.tolist()} == {*range(72)}
        chosen.append(trained)
    assert chosen[0] == chosen[1] != chosen[2]


def test_the_accuracy_on_what_is_held_out(tmp_path: Path):
    given = config(recipe=replace(RECIPE, validation=0.25, epochs=1), num_samples=1000)
    epochs: list[Epoch] = []
    start(tmp_path, given, on_epoch=epochs.append)
    (epoch,) = epochs
    assert epoch.validation_accuracy is not None
    assert epoch.validation_accuracy * 250 == pytest.approx(round(epoch.validation_accuracy * 250))
    assert epoch.validation_accuracy == pytest.approx(epoch.test_accuracy, abs=0.15)


@pytest.mark.parametrize("validation", [0.9, 0.99])
def test_holding_out_all_there_is_is_refused(tmp_path: Path, validation: float):
    given = config(recipe=replace(RECIPE, validation=validation), num_samples=5)
    data, _ = sets(5)
    message = refusal(lambda: loop.train(given, data, None, out=tmp_path))
    assert "example" in message


# --- steps that are not finite -----------------------------------------------------------------


@pytest.mark.parametrize("where", [7, 30])
def test_a_loss_that_is_not_finite_is_told_with_its_step(tmp_path: Path, where: int):
    step = bad_steps(where)[0]
    given = config()
    message = refusal(lambda: start(tmp_path / "run", given, bad_data(where)))
    assert f"not finite in step {step} of 15" in message
    assert "--lr" in message
    assert "--on-nonfinite skip" in message
    if step > 1:
        payload, _ = state.load(tmp_path / "run")
        assert payload is not None
        assert payload["step"] == step - 1
        assert all(tensor.isfinite().all() for tensor in payload["model"].values())


def test_one_bad_example_is_seen_in_time():
    assert max(bad_steps(30)[0], bad_steps(7)[0]) > 1  # or the test above has no state to look at


@pytest.mark.parametrize("method", ["none", "sam", "grad-penalty", "hessian-trace"])
def test_steps_may_be_skipped(tmp_path: Path, method: str):
    epochs: list[Epoch] = []
    given = config(method, on_nonfinite="skip")
    start(tmp_path, given, bad_data(), on_epoch=epochs.append)
    assert [epoch.num_skipped for epoch in epochs] == [1, 1, 1]
    assert [row["num_skipped"] for row in folder.read_metrics(tmp_path)] == [1, 1, 1]
    assert epochs[-1].train_loss < epochs[0].train_loss
    payload, _ = state.load(tmp_path)
    assert payload is not None
    assert all(tensor.isfinite().all() for tensor in payload["model"].values())


def test_a_skipped_step_leaves_no_trace_in_batchnorm(tmp_path: Path):
    given = config(recipe=replace(WRN, augmentation=()), on_nonfinite="skip")
    start(tmp_path, given, bad_data())
    payload, _ = state.load(tmp_path)
    assert payload is not None
    assert sum(row["num_skipped"] for row in folder.read_metrics(tmp_path)) == 2
    assert all(tensor.isfinite().all() for tensor in payload["model"].values())


def test_a_run_that_skips_goes_on_too(tmp_path: Path):
    given = config("sam", on_nonfinite="skip")
    same_again(tmp_path, given, bad_steps()[1] + 1, data=bad_data())


def test_an_epoch_of_skipped_steps_alone_has_no_loss(tmp_path: Path):
    data, _ = sets(72)
    data = replace(data, inputs=torch.full_like(data.inputs, 3e38))
    start(tmp_path, config(on_nonfinite="skip"), data)
    rows = folder.read_metrics(tmp_path)
    assert [row["num_skipped"] for row in rows] == [PER_EPOCH] * 3
    assert [row["train_loss"] for row in rows] == [None] * 3  # 0 would be the best there is


def test_skipping_changes_nothing_where_all_is_finite(tmp_path: Path):
    stopping = start(tmp_path / "stop", config("sam"))
    skipping = start(tmp_path / "skip", config("sam", on_nonfinite="skip"))
    assert results(stopping) == results(skipping)
