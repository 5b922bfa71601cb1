"""What training scripts save around the weights, and which of them are wanted."""

import argparse
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hessdiag.errors import InputError
from hessdiag.nets import checkpoints
from hessdiag.nets.checkpoints import Choice

LIVE = nn.Linear(3, 2).state_dict()
MEAN = {name: tensor + 1 for name, tensor in LIVE.items()}


def read(path: Path, content: Any, **choice: Any) -> checkpoints.Checkpoint:
    torch.save(content, path)
    return checkpoints.read(path, Choice(**choice))


def is_live(checkpoint: checkpoints.Checkpoint) -> bool:
    return all(torch.equal(tensor, LIVE[name]) for name, tensor in checkpoint.tensors.items())


def loaded(checkpoint: checkpoints.Checkpoint) -> bool:
    """Load it, and tell whether the average was taken."""
    model = nn.Linear(3, 2)
    checkpoints.load_into(model, checkpoint)
    same = [torch.equal(model.weight, state["weight"]) for state in (LIVE, MEAN)]
    assert sum(same) == 1
    return same[1]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pth.tar", ".bin", ".ckpt", ".PT"])
def test_the_suffix_does_not_matter(tmp_path: Path, suffix: str) -> None:
    assert not loaded(read(tmp_path / f"model{suffix}", {"epoch": 3, "state_dict": LIVE}))


BESIDE = {
    "number": np.float64(0.9),
    "integer": np.int64(3),
    "foreign": np.array([1.5], ">f4")[0],
    "array": np.arange(6.0).reshape(2, 3),
    "of objects": np.array([None, "x"], dtype=object),
    "namespace": argparse.Namespace(lr=0.1, model="x", inner=argparse.Namespace(a=[1])),
    "path": Path("runs/1"),
    "history": defaultdict(list, loss=[1.0]),
    "nested": {"best": {"acc": np.float32(0.5)}},
}


@pytest.mark.parametrize("kind", BESIDE)
def test_what_lies_beside_the_weights_does_no_harm(tmp_path: Path, kind: str) -> None:
    assert is_live(read(tmp_path / "m.pt", {"state_dict": LIVE, "beside": BESIDE[kind]}))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_weights_as_arrays_of_numpy(tmp_path: Path, dtype: str, order: Any) -> None:
    state = {name: tensor.numpy().astype(dtype, order=order) for name, tensor in LIVE.items()}
    assert not loaded(read(tmp_path / "m.pt", state))


AVERAGED: dict[str, Any] = {
    "timm": {"state_dict": LIVE, "state_dict_ema": MEAN},
    "torchvision": {
        "model": LIVE,
        "model_ema": {"n_averaged": torch.tensor(3), **{f"module.{n}": t for n, t in MEAN.items()}},
    },
    "nested": {"model": LIVE, "ema": {"state_dict": MEAN, "decay": 0.99}},
    "by prefix": {
        "state_dict": {f"model.{n}": t for n, t in LIVE.items()}
        | {f"ema_model.{n}": t for n, t in MEAN.items()}
    },
}


@pytest.mark.parametrize("kind", AVERAGED)
def test_the_average_is_taken_where_it_is_asked_for(tmp_path: Path, kind: str) -> None:
    checkpoint = read(tmp_path / "m.pt", AVERAGED[kind], ema=True)
    assert loaded(checkpoint)
    assert "averaged weights under" in checkpoint.notes[0]


def test_no_average_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no averaged weights[\s\S]*state_dict, epoch"):
        read(tmp_path / "m.pt", {"state_dict": LIVE, "epoch": 3}, ema=True)


NESTED: dict[str, Any] = {
    "ema": {"ema": MEAN, "model": LIVE},
    "models.two": {"models": {"one": LIVE, "two": MEAN}},
    "a.b": {"a.b": MEAN, "a": {"b": LIVE}},
    "a.b.two": {"a.b": {"two": {"state_dict": MEAN}}, "model": LIVE},
    "student": {"state_dict": {"student.weight": MEAN["weight"], "teacher.weight": LIVE["weight"]}},
}


@pytest.mark.parametrize("key", NESTED)
def test_a_key_chooses(tmp_path: Path, key: str) -> None:
    checkpoint = read(tmp_path / "m.pt", NESTED[key], key=key)
    assert torch.equal(checkpoint.tensors["weight"], MEAN["weight"])
    assert checkpoint.notes == (f"the weights under {key}",)


@pytest.mark.parametrize("key", ["absent", "model.absent", "", ".", "model.weight.x"])
def test_a_key_that_is_not_there_is_told(tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError, match=r"nothing under[\s\S]*got: (model|weight, bias)"):
        read(tmp_path / "m.pt", {"model": LIVE}, key=key)


def test_one_state_dict_by_any_name_is_taken(tmp_path: Path) -> None:
    assert is_live(read(tmp_path / "m.pt", {"epoch": 2, "actor": OrderedDict(LIVE)}))


def test_several_are_a_question(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"several state dicts[\s\S]*generator, critic[\s\S]*--key"
    ):
        read(tmp_path / "m.pt", {"generator": LIVE, "critic": MEAN})


def test_lightnings_arguments_are_kept(tmp_path: Path) -> None:
    whole = {"state_dict": LIVE, "hyper_parameters": {"width": 3}}
    assert read(tmp_path / "m.ckpt", whole).arguments == {"width": 3}
    one = {**whole, "hparams_name": "config"}
    assert read(tmp_path / "m.ckpt", one).arguments == {"config": {"width": 3}}


def test_extra_state_is_no_weight(tmp_path: Path) -> None:
    assert is_live(read(tmp_path / "m.pt", {**LIVE, "layer._extra_state": {"scale": 1}}))
