"""A checkpoint with its network and its data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from hessdiag import subject
from hessdiag.data import datasets
from hessdiag.errors import InputError
from hessdiag.metadata import DataSpec, Metadata, ModelSpec
from hessdiag.nets import checkpoints, models

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
    assert found.loss == "cross-entropy"
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
    monkeypatch.setitem(subject._GRAPH_BUDGET, "cpu", 20_000)
    cut = subject.load(path, num_samples=40)
    assert 1 <= cut.batch_size < 40
    monkeypatch.setitem(subject._GRAPH_BUDGET, "cpu", 1)
    assert subject.load(path, num_samples=40).batch_size == 1


def test_bn_batch_takes_the_whole_sample_at_once(path: str, monkeypatch):
    monkeypatch.setitem(subject._GRAPH_BUDGET, "cpu", 1)
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
        ({"num_samples": 0}, "--num-samples is too small"),
        ({"batch_size": 0}, "--batch-size is too small"),
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
        from hessdiag.curvature.losses import resolve

        resolve(subject.load(path, **options).loss)

    with pytest.raises(InputError, match=words):
        load()


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "cuda:999"])
def test_bad_devices(device: str):
    with pytest.raises(InputError, match=r"unknown device|no such CUDA device"):
        subject.resolve_device(device)


def test_devices():
    assert subject.resolve_device("cpu") == torch.device("cpu")
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert subject.resolve_device("auto").type == wanted
