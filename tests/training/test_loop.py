"""The training loop on the digits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hessdiag.data.datasets import Dataset
from hessdiag.errors import InputError
from hessdiag.metadata import DataSpec, Metadata, ModelSpec
from hessdiag.nets import checkpoints, models
from hessdiag.seeds import stream
from hessdiag.training import folder, loop, methods, recipes
from hessdiag.training.folder import Config
from hessdiag.training.history import Epoch, Standing

RECIPE = replace(recipes.find("digits-wrn10-1"), model="mlp-16", epochs=3, batch_size=32)


def config(recipe: recipes.Recipe = RECIPE, **fields: Any) -> Config:
    return Config(recipe, **fields)


def digits(num_samples: int = 300) -> tuple[Dataset, Dataset]:
    data, test = loop.load_data(config(num_samples=num_samples))
    assert test is not None
    return data, test


def train(
    out: Path, recipe: recipes.Recipe = RECIPE, *, seed: int = 0, **options: Any
) -> checkpoints.Checkpoint:
    data, test = digits()
    return checkpoints.read(
        loop.train(config(recipe, seed=seed), data, test, out=out, **options).checkpoint
    )


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    return str(caught.value)


def test_the_loss_falls_and_the_digits_are_learnt(tmp_path: Path):
    epochs: list[Epoch] = []
    steps: list[Standing] = []
    train(tmp_path, on_epoch=epochs.append, on_step=steps.append)
    losses = [epoch.train_loss for epoch in epochs]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert epochs[-1].train_accuracy > 0.8
    assert epochs[-1].test_accuracy is not None
    assert epochs[-1].test_accuracy > 0.75
    assert [now.step for now in steps] == [*range(1, 31)]  # ten batches, the last one smaller
    assert {now.num_steps for now in steps} == {30}
    assert [now.epoch for now in steps[8:12]] == [1, 1, 2, 2]
    assert steps[-1].lr == epochs[-1].lr
    assert steps[-1].loss == epochs[-1].train_loss  # of all its steps
    assert steps[-1].accuracy == epochs[-1].train_accuracy
    assert steps[-1].images_per_second > 0


def test_the_wrn_of_the_recipe_learns_too(tmp_path: Path):
    epochs: list[Epoch] = []
    recipe = replace(recipes.find("digits-wrn10-1"), epochs=2)
    train(tmp_path, recipe, on_epoch=epochs.append)
    assert epochs[1].train_loss < epochs[0].train_loss
    assert epochs[1].train_accuracy > epochs[0].train_accuracy > 0.15


def test_the_same_seed_gives_the_same_weights_bit_for_bit(tmp_path: Path):
    found: list[checkpoints.Checkpoint] = []
    for number, seed in enumerate((5, 5, 6)):
        place = tmp_path / str(number)
        place.mkdir()
        torch.manual_seed(number)  # of no account
        found.append(train(place, seed=seed))
    assert same(found[0].tensors, found[1].tensors)
    assert found[0].sha256 == found[1].sha256
    assert not same(found[0].tensors, found[2].tensors)


def test_the_global_random_state_stays_where_it_was(tmp_path: Path):
    before = torch.get_rng_state()
    train(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_metadata_is_complete(tmp_path: Path):
    epochs: list[Epoch] = []
    found = train(tmp_path, on_epoch=epochs.append)
    last = epochs[-1]
    assert found.path == tmp_path / "model.safetensors"
    assert found.metadata == Metadata(
        model=ModelSpec("mlp-16", "gelu", None, 10, (1, 8, 8)),
        data=DataSpec("digits", (0.3051,), (0.3762,)),
        loss="cross-entropy",
        recipe="digits-wrn10-1",
        regulariser="none",
        epoch=3,
        seed=0,
        metrics={
            "train_loss": last.train_loss,
            "train_accuracy": last.train_accuracy,
            "test_accuracy": pytest.approx(last.test_accuracy),
        },
    )


def test_the_weights_written_are_those_that_were_tested(tmp_path: Path):
    epochs: list[Epoch] = []
    found = train(tmp_path, on_epoch=epochs.append)
    assert found.metadata is not None
    model = models.build(found.metadata.model)
    checkpoints.load_into(model, found)
    _, test = digits()
    right = (model.eval()(test.inputs).argmax(1) == test.targets).double().mean()
    assert epochs[-1].test_accuracy == pytest.approx(float(right), rel=1e-12)
    assert found.metadata.metrics["test_accuracy"] == epochs[-1].test_accuracy


def test_one_step_is_sgd_with_the_gradient_of_the_mean_loss(tmp_path: Path):
    data, _ = digits(20)
    recipe = replace(RECIPE, epochs=1, batch_size=20, momentum=0.0, weight_decay=0.0, lr=0.3)
    spec = ModelSpec("mlp-16", "gelu", None, 10, (1, 8, 8))
    model = models.build(spec, seed=stream(4, "init"))
    F.cross_entropy(model(data.inputs), data.targets).backward()
    found = checkpoints.read(
        loop.train(config(recipe, seed=4), data, None, out=tmp_path).checkpoint
    )
    for name, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(found.tensors[name], p.detach() - 0.3 * p.grad)
    assert found.metadata is not None
    assert "test_accuracy" not in found.metadata.metrics


def test_mse_trains_on_one_hot_labels(tmp_path: Path):
    epochs: list[Epoch] = []
    found = train(tmp_path, replace(RECIPE, loss="mse"), on_epoch=epochs.append)
    assert epochs[-1].train_loss < epochs[0].train_loss < 1
    assert found.metadata is not None
    assert found.metadata.loss == "mse"


def test_divergence_is_refused_and_leaves_no_checkpoint(tmp_path: Path):
    message = refusal(lambda: train(tmp_path, replace(RECIPE, lr=1e30)))
    assert "diverged" in message
    assert "smaller --lr" in message
    assert "in step 2 of 30" in message
    assert [path.name for path in tmp_path.iterdir()] == [folder.CONFIG]


def test_divergence_in_the_last_step_shows_in_the_weights_alone(tmp_path: Path):
    data, _ = digits(20)
    data = replace(data, inputs=data.inputs * 1e12)
    recipe = replace(RECIPE, lr=1e30, epochs=1, batch_size=20)
    message = refusal(lambda: loop.train(config(recipe), data, None, out=tmp_path))
    assert "diverged" in message
    assert [path.name for path in tmp_path.iterdir()] == [folder.CONFIG]


def test_an_interruption_leaves_no_checkpoint(tmp_path: Path):
    def interrupt(now: Standing) -> None:
        if now.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, on_step=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == [folder.CONFIG]


def test_what_a_run_writes(tmp_path: Path):
    epochs: list[Epoch] = []
    train(tmp_path, on_epoch=epochs.append)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted({*folder.FILES} - {folder.STEPS, folder.CURVES, folder.REPORT})
    rows = folder.read_metrics(tmp_path)
    assert [Epoch.from_row(row) for row in rows] == epochs
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert [row["num_skipped"] for row in rows] == [0, 0, 0]
    assert 0 < rows[-1]["lr"] < rows[0]["lr"] < RECIPE.lr  # of each epoch's last step


def test_the_best_epoch_is_kept(tmp_path: Path):
    """At a learning rate that rises too far, the first of the best epochs comes before the last."""
    epochs: list[Epoch] = []
    recipe = replace(RECIPE, epochs=6, schedule="constant", warmup_epochs=6.0, lr=6.0)
    last = train(tmp_path, recipe, on_epoch=epochs.append)
    best = checkpoints.read(tmp_path / folder.BEST)
    assert last.metadata is not None
    assert best.metadata is not None
    scores = [epoch.test_accuracy or 0.0 for epoch in epochs]
    assert best.metadata.epoch == 1 + scores.index(max(scores)) < 6
    assert best.metadata.metrics["test_accuracy"] == max(scores)
    assert last.metadata.epoch == 6
    assert not same(best.tensors, last.tensors)


def test_a_last_batch_of_one_is_left_out(tmp_path: Path):
    data, _ = digits(33)
    epochs: list[Epoch] = []
    steps: list[Standing] = []
    loop.train(
        config(replace(RECIPE, epochs=2)),
        data,
        None,
        out=tmp_path,
        on_step=steps.append,
        on_epoch=epochs.append,
    )
    assert [(now.step, now.num_steps) for now in steps] == [(1, 2), (2, 2)]
    right = [epoch.train_accuracy * 32 for epoch in epochs]
    assert right == pytest.approx([round(number) for number in right])


def test_the_test_split_is_scaled_as_the_training_split():
    data, test = digits(50)
    assert (test.mean, test.std) == (data.mean, data.std)
    assert test.num_samples == 1797 - 1442
    assert data.num_samples == 50


def test_only_classifiers_are_trained(tmp_path: Path, monkeypatch):
    (tmp_path / "soft_data.py").write_text(
        "import torch\ndef data(): return torch.ones(4, 3), torch.ones(4, 2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    soft = config(replace(RECIPE, data="soft_data:data"))
    assert "the recipes train classifiers" in refusal(lambda: loop.load_data(soft))


# --- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
    ids=repr,
)
def test_too_little_memory_gives_advice(tmp_path: Path, monkeypatch, error: Exception):
    def hungry(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(methods.Plain, "step", hungry)
    message = refusal(lambda: train(tmp_path))
    assert "too little memory for a training step" in message
    assert "got: batches of 32" in message
    assert "--batch-size 16" in message


def test_other_errors_are_left_as_they_are(tmp_path: Path, monkeypatch):
    def broken(*_: Any) -> Any:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(methods.Plain, "step", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        train(tmp_path)


def arrays(folder: Path, dtype: str) -> Config:
    path = folder / "x.npz"
    np.savez(path, inputs=np.ones((40, 3), dtype), labels=np.arange(40) % 4)
    return config(replace(RECIPE, data=str(path), mean=None, std=None, augmentation=(), epochs=1))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_real_inputs_of_any_precision_are_trained_on(tmp_path: Path, dtype: str):
    chosen = arrays(tmp_path, dtype)
    remarks: list[str] = []
    loop.train(chosen, *loop.load_data(chosen), out=tmp_path, on_remark=remarks.append)
    assert len(remarks) == 1
    assert "without a test split" in remarks[0]
    assert remarks[0].endswith(f"it would be {tmp_path}/x_test.npz")


def test_inputs_that_the_network_cannot_take_are_told(tmp_path: Path):
    chosen = arrays(tmp_path, "int64")
    message = refusal(lambda: loop.train(chosen, *loop.load_data(chosen), out=tmp_path))
    assert "the network cannot take this input" in message
