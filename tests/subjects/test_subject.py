"""A checkpoint with its network and its data."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from msgspec import structs
from torch import nn

from hessdiag.curvature import memory
from hessdiag.data import datasets
from hessdiag.errors import InputError
from hessdiag.metadata import DataSpec, Metadata, ModelSpec
from hessdiag.nets import checkpoints, models
from hessdiag.seeds import stream
from hessdiag.subjects import subject
from hessdiag.training import loop, recipes
from hessdiag.training.folder import Config

SPEC = ModelSpec("mlp-8", "tanh", None, 10, (1, 8, 8))


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Write a network with metadata of its own."""
    metadata = Metadata(SPEC, DataSpec("digits", (0.25,), (0.5,)), loss="mse")
    checkpoints.save(tmp_path / "own.safetensors", models.build(SPEC), metadata)
    return str(tmp_path / "own.safetensors")


@pytest.fixture
def bare(path: str) -> str:
    """Write the same tensors without a word."""
    other = path.replace("own", "bare")
    safetensors.torch.save_file(safetensors.torch.load_file(path), other)
    return other


def refusal(*args: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        subject.load(*args, **options)
    return str(caught.value)


def same(model: nn.Module, other: nn.Module, *, buffers: bool = False) -> bool:
    """Tell whether the parameters, or all tensors but counters, are bit for bit the same."""
    ours, theirs = (
        {
            name: tensor
            for name, tensor in (m.state_dict() if buffers else dict(m.named_parameters())).items()
            if tensor.is_floating_point()
        }
        for m in (model, other)
    )
    return ours.keys() == theirs.keys() and all(torch.equal(t, theirs[n]) for n, t in ours.items())


def trained(folder: Path, model: str, seed: int, **changes: Any) -> str:
    """Train for an epoch on a few digits."""
    changes = {"epochs": 1, "batch_size": 32, "activation": "tanh", **changes}
    recipe = replace(recipes.find("digits-wrn10-1"), model=model, **changes)
    config = Config(recipe, seed=seed, num_samples=64)
    data, _ = loop.load_data(replace(config, seed=0))
    folder.mkdir(exist_ok=True)
    return str(loop.train(config, data, None, out=folder).checkpoint)


def activations_of(model: nn.Module) -> set[str]:
    return {type(m).__name__ for m in model.modules() if isinstance(m, nn.GELU | nn.Tanh | nn.ReLU)}


def test_metadata_fill_in_what_is_not_given(path: str):
    found = subject.load(path, num_samples=30)
    assert found.spec == SPEC
    assert found.loss == "mse"
    assert (found.data.spec, found.data.mean, found.data.std) == ("digits", (0.25,), (0.5,))
    assert found.dtype == torch.float32
    assert not found.model.training
    tensors = safetensors.torch.load_file(path)
    assert all(torch.equal(t, tensors[name]) for name, t in found.model.state_dict().items())


def test_options_go_before_metadata(path: str):
    found = subject.load(path, activation="gelu", loss="cross-entropy", dtype="float64")
    assert found.spec.activation == "gelu"
    assert (found.loss, found.dtype) == ("cross-entropy", torch.float64)
    found = subject.load(path, model="mlp-8", activation="beta_gelu", beta=3.0, num_samples=5)
    assert (found.spec.name, found.spec.beta) == ("mlp-8", 3.0)
    assert subject.load(path, model="mlp-8", num_samples=5).spec.activation == "tanh"


def test_without_metadata_the_tensors_tell(bare: str):
    assert "the activation of this mlp-8 is not known" in refusal(bare, data="digits")
    found = subject.load(bare, data="digits", num_samples=5, activation="silu")
    assert found.spec.activation == "silu"
    assert found.spec.name == "mlp-8"
    assert found.spec.num_classes == 10
    assert found.loss is None
    assert "no data are known" in refusal(bare)


def test_the_checkpoints_own_scaling_goes_for_other_data(path: str, tmp_path: Path):
    images = np.full((12, 8, 8), 255, np.uint8)
    np.savez(tmp_path / "white.npz", images=images, labels=np.arange(12) % 10)
    found = subject.load(path, data=str(tmp_path / "white.npz"))
    assert found.data.inputs.unique().tolist() == [1.5]  # (1 - 0.25) / 0.5


def test_at_most_512_samples_unless_more_are_asked_for(path: str):
    assert subject.load(path).data.num_samples == subject.DEFAULT_SAMPLES == 512
    assert subject.load(path, split="test").data.num_samples == 1797 - 1442
    assert subject.load(path, num_samples=600).data.num_samples == 600
    assert "1 to 1442" in refusal(path, num_samples=1443)


def test_batches_are_the_sample_cut_in_order(path: str):
    found = subject.load(path, num_samples=10, batch_size=4)
    assert [len(y) for _, y in found.batches()] == [4, 4, 2]
    assert torch.equal(torch.cat([x for x, _ in found.batches()]), found.data.inputs)
    assert torch.equal(torch.cat([y for _, y in found.batches()]), found.data.targets)


def test_a_fitting_batch_shrinks_with_the_budget(path: str, monkeypatch):
    whole = subject.load(path, num_samples=40)
    assert whole.batch_size == 40
    monkeypatch.setitem(memory._GRAPH_BUDGET, "cpu", 20_000)
    cut = subject.load(path, num_samples=40)
    assert 1 <= cut.batch_size < 40
    monkeypatch.setitem(memory._GRAPH_BUDGET, "cpu", 1)
    assert subject.load(path, num_samples=40).batch_size == 1


def test_bn_batch_takes_the_whole_sample_at_once(path: str, monkeypatch):
    monkeypatch.setitem(memory._GRAPH_BUDGET, "cpu", 1)
    assert subject.load(path, num_samples=40, bn="batch").batch_size == 40
    assert subject.load(path, num_samples=40, bn="batch", batch_size=40).batch_size == 40
    message = refusal(path, num_samples=40, bn="batch", batch_size=39)
    assert "with --bn batch the whole sample is one batch" in message


def test_provenance(path: str):
    found = subject.load(path, num_samples=7, batch_size=3, split="test", seed=2)
    said = found.provenance()
    assert (said.checkpoint, said.data, said.split, said.batch_size) == (path, "digits", "test", 3)
    assert said.checkpoint_sha256 == checkpoints.read(path).sha256
    own = datasets.load("digits", split="test", num_samples=7, seed=2, mean=(0.25,), std=(0.5,))
    assert said.data_sha256 == own.sha256
    assert said.model == SPEC


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float16"}, "unknown dtype"),
        ({"dtype": "double"}, "unknown dtype"),
        ({"split": "validation"}, "unknown split"),
        ({"num_samples": 0}, "`num_samples` is out of range"),
        ({"batch_size": 0}, "`batch_size` is out of range"),
        ({"loss": "", "num_samples": 5}, "unknown loss"),
        ({"data": "", "num_samples": 5}, "unknown data"),
        ({"model": ""}, "unknown model"),
        ({"activation": ""}, "unknown activation"),
        ({"model": "mlp-9"}, "does not fit the network MLP"),
        ({"device": "meta"}, "unknown device"),
    ],
    ids=str,
)
def test_bad_options(path: str, options: dict[str, Any], words: str):
    def load() -> None:
        from hessdiag.losses.loss_spec import resolve

        resolve(subject.load(path, **options).loss)

    with pytest.raises(InputError, match=words):
        load()


def test_without_a_path_the_network_is_a_fresh_one_on_the_digits():
    found = subject.load(None, num_samples=40)
    assert found.checkpoint is None
    assert found.spec == ModelSpec(subject.FRESH_MODEL, "gelu", None, 10, (1, 8, 8))
    assert (found.data.spec, found.loss, found.dtype) == ("digits", None, torch.float32)
    assert not found.model.training
    said = found.provenance()
    assert (said.checkpoint, said.checkpoint_sha256, said.model) == (None, None, found.spec)


def test_without_a_path_options_go_too(tmp_path: Path):
    np.savez(tmp_path / "own.npz", images=np.zeros((6, 4, 4), np.uint8), labels=np.arange(6) % 3)
    found = subject.load(
        None, model="mlp-5", activation="swish", beta=2.0, data=str(tmp_path / "own.npz")
    )
    assert found.spec == ModelSpec("mlp-5", "swish", 2.0, 3, (1, 4, 4))
    assert found.model(found.data.inputs).shape == (6, 3)
    assert "did you mean" in refusal(None, model="wrn10")
    assert "needs a β" in refusal(None, activation="swish")


@pytest.mark.parametrize("model", ["mlp-8", "wrn10-1"])
def test_a_fresh_networks_weights_are_those_that_training_with_its_seed_starts_from(model: str):
    found = subject.load(None, model=model, num_samples=40, seed=7)
    assert same(found.model, models.build(found.spec, seed=stream(7, "init")))
    assert not same(found.model, subject.load(None, model=model, num_samples=40).model)


def test_a_fresh_networks_batchnorm_has_the_samples_statistics():
    found = subject.load(None, num_samples=40)
    again = copy.deepcopy(found.model)
    models.calibrate(again, found.data.inputs)
    assert same(again, found.model, buffers=True)
    assert not same(models.build(found.spec, seed=stream(0, "init")), found.model, buffers=True)
    assert "at least two examples" in refusal(None, num_samples=1)
    assert subject.load(None, model="mlp-8", num_samples=1).checkpoint is None


def test_another_activation_has_the_same_weights(path: str):
    found = subject.load(path, num_samples=20)
    other = found.with_activation("beta_gelu", 3.0)
    assert other.spec == structs.replace(SPEC, activation="beta_gelu", beta=3.0)
    assert other.checkpoint is found.checkpoint
    assert other.data is found.data
    assert (other.batch_size, other.loss, other.dtype) == (20, "mse", torch.float32)
    assert not other.model.training
    assert same(other.model, found.model)
    assert not torch.equal(other.model(found.data.inputs), found.model(found.data.inputs))
    assert activations_of(found.model) == {"Tanh"}  # is left as it was
    assert found.spec == SPEC
    back = other.with_activation("tanh", None)
    assert torch.equal(back.model(found.data.inputs), found.model(found.data.inputs))


def test_another_activation_has_the_same_batchnorm_statistics(tmp_path: Path):
    found = subject.load(trained(tmp_path, "wrn10-1", seed=0), num_samples=20)
    assert same(found.with_activation("relu", None).model, found.model, buffers=True)


@pytest.mark.parametrize("model", ["mlp-8", "wrn10-1"])
def test_another_activation_has_the_same_weights_in_a_fresh_network_too(model: str):
    found = subject.load(None, model=model, num_samples=20, seed=5)
    assert same(found.with_activation("relu", None).model, found.model)


def test_another_activation_must_fit(path: str):
    found = subject.load(path, num_samples=5)
    for name, beta, words in (
        ("gellu", None, "did you mean gelu"),
        ("beta_gelu", None, "needs a β"),
        ("relu", 2.0, "takes no β"),
    ):
        with pytest.raises(InputError, match=words):
            found.with_activation(name, beta)


@pytest.mark.parametrize("model", ["mlp-8", "wrn10-1"])
def test_initialised_is_where_training_started(tmp_path: Path, model: str):
    # at a learning rate of zero, training ends where it started
    still = subject.load(trained(tmp_path / "still", model, seed=11, lr=0.0), num_samples=30)
    moved = subject.load(trained(tmp_path / "moved", model, seed=11), num_samples=30)
    assert moved.checkpoint is not None
    assert moved.checkpoint.metadata is not None
    assert moved.checkpoint.metadata.seed == 11
    assert not same(moved.model, still.model)
    for found in (moved.initialised(), moved.initialised(seed=4)):  # the checkpoint knows better
        assert same(found.model, still.model)
        assert same(found.model, models.build(moved.spec, seed=stream(11, "init")))
        assert not found.model.training
        assert found.checkpoint is None
        assert found.data is moved.data


def test_initialised_has_the_samples_batchnorm_statistics(tmp_path: Path):
    found = subject.load(trained(tmp_path, "wrn10-1", seed=1), num_samples=300)
    start = found.initialised()
    again = copy.deepcopy(start.model)
    models.calibrate(again, found.data.inputs[:256])
    assert same(again, start.model, buffers=True)
    models.calibrate(again, found.data.inputs)
    assert not same(again, start.model, buffers=True)


def test_initialised_takes_the_seed_given_where_the_checkpoint_tells_none(path: str):
    found = subject.load(path, num_samples=10)
    for seed in (0, 3):
        wanted = models.build(found.spec, seed=stream(seed, "init"))
        assert same(found.initialised(seed).model, wanted)


def test_initialised_keeps_another_activation(path: str):
    found = subject.load(path, num_samples=10).with_activation("relu", None).initialised()
    assert found.spec.activation == "relu"
    assert activations_of(found.model) == {"ReLU"}
