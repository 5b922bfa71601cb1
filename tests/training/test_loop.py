"""The training loop on the digits."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hessdiag.data.datasets import Dataset
from hessdiag.errors import InputError
from hessdiag.metadata import DataSpec, Metadata, ModelSpec
from hessdiag.nets import checkpoints, models
from hessdiag.seeds import stream
from hessdiag.training import loop, recipes
from hessdiag.training.loop import Epoch

RECIPE = replace(recipes.find("digits-wrn10-1"), model="mlp-16", epochs=3, batch_size=32)


def digits(num_samples: int = 300) -> tuple[Dataset, Dataset]:
    data, test = loop.load_data(
        "digits", num_samples=num_samples, seed=0, root=None, download=False
    )
    assert test is not None
    return data, test


def train(out: Path, recipe: recipes.Recipe = RECIPE, **options: Any) -> checkpoints.Checkpoint:
    data, test = digits()
    return checkpoints.read(loop.train(recipe, data, test, out=out, **options))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    return str(caught.value)


def test_the_loss_falls_and_the_digits_are_learnt(tmp_path: Path):
    epochs: list[Epoch] = []
    steps: list[tuple[int, int]] = []
    train(tmp_path, on_epoch=epochs.append, on_step=lambda done, total: steps.append((done, total)))
    losses = [epoch.train_loss for epoch in epochs]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert epochs[-1].train_accuracy > 0.8
    assert epochs[-1].test_accuracy is not None
    assert epochs[-1].test_accuracy > 0.75
    assert steps == [(done, 30) for done in range(1, 31)]  # ten batches, the last one smaller


def test_the_wrn_of_the_recipe_learns_too(tmp_path: Path):
    epochs: list[Epoch] = []
    recipe = replace(recipes.find("digits-wrn10-1"), epochs=2)
    train(tmp_path, recipe, on_epoch=epochs.append)
    assert epochs[1].train_loss < epochs[0].train_loss
    assert epochs[1].train_accuracy > epochs[0].train_accuracy > 0.15


def test_the_same_seed_gives_the_same_weights_bit_for_bit(tmp_path: Path):
    found: list[checkpoints.Checkpoint] = []
    for number, seed in enumerate((5, 5, 6)):
        folder = tmp_path / str(number)
        folder.mkdir()
        torch.manual_seed(number)  # of no account
        found.append(train(folder, seed=seed))
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
    assert loop.accuracy(model, test, 7) == pytest.approx(float(right), rel=1e-12)


def test_one_step_is_sgd_with_the_gradient_of_the_mean_loss(tmp_path: Path):
    data, _ = digits(20)
    recipe = replace(RECIPE, epochs=1, batch_size=20, momentum=0.0, weight_decay=0.0, lr=0.3)
    spec = ModelSpec("mlp-16", "gelu", None, 10, (1, 8, 8))
    model = models.build(spec, seed=stream(4, "init"))
    F.cross_entropy(model(data.inputs), data.targets).backward()
    found = checkpoints.read(loop.train(recipe, data, None, out=tmp_path, seed=4))
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
    assert list(tmp_path.iterdir()) == []


def test_divergence_in_the_last_step_shows_in_the_weights_alone(tmp_path: Path):
    data, _ = digits(20)
    data = replace(data, inputs=data.inputs * 1e4)
    recipe = replace(RECIPE, lr=1e38, epochs=1, batch_size=20)
    message = refusal(lambda: loop.train(recipe, data, None, out=tmp_path))
    assert "diverged" in message
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_no_checkpoint(tmp_path: Path):
    def interrupt(done: int, _total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, on_step=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_not_free(tmp_path: Path):
    folder = tmp_path / "a" / "b"
    loop.check_free(folder, force=False)
    assert not folder.exists()  # to ask makes nothing
    train(folder)
    assert "holds a run already" in refusal(lambda: loop.check_free(folder, force=False))
    loop.check_free(folder, force=True)
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]


def test_a_folder_made_for_a_run_that_fails_goes_again(tmp_path: Path):
    kept = tmp_path / "kept"
    kept.mkdir()
    for folder in (tmp_path / "a" / "b", kept):
        assert "diverged" in refusal(lambda out=folder: train(out, replace(RECIPE, lr=1e30)))
    assert list(tmp_path.iterdir()) == [kept]


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for name in ("file", "file/below"):
        assert "cannot make the folder" in refusal(lambda name=name: train(tmp_path / name))


def test_a_last_batch_of_one_is_left_out(tmp_path: Path):
    data, _ = digits(33)
    epochs: list[Epoch] = []
    steps: list[tuple[int, int]] = []
    loop.train(
        replace(RECIPE, epochs=2),
        data,
        None,
        out=tmp_path,
        on_step=lambda done, total: steps.append((done, total)),
        on_epoch=epochs.append,
    )
    assert steps == [(1, 2), (2, 2)]
    right = [epoch.train_accuracy * 32 for epoch in epochs]
    assert right == pytest.approx([round(number) for number in right])


def test_unknown_regularisers_are_refused(tmp_path: Path):
    assert "did you mean none" in refusal(lambda: loop.check_regulariser("non"))
    assert "unknown regulariser" in refusal(lambda: train(tmp_path, regulariser="gn"))


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

    def load() -> Any:
        return loop.load_data("soft_data:data", num_samples=None, seed=0, root=None, download=False)

    assert "the recipes train classifiers" in refusal(load)


def test_an_epoch_in_words():
    assert Epoch.none().summary() == ""
    assert math.isnan(Epoch.none().train_loss)
    assert Epoch(1, 0.5, 0.25, None).summary() == "loss 0.5000, train accuracy 25.00%"
    assert Epoch(1, 0.5, 0.25, 0.125).summary().endswith("test accuracy 12.50%")
