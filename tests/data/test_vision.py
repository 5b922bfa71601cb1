"""Torchvision's data sets and folders of images."""

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as torchvision_datasets

from hessdiag.data import datasets, vision
from tests.data.test_datasets import refusal


@pytest.mark.parametrize("name", [*vision.ARRAYS, "imagenet"])
def test_absent_data_sets_say_how_to_get_them(tmp_path: Path, name: str) -> None:
    message = refusal(lambda: datasets.load(name, root=str(tmp_path)))
    assert str(tmp_path) in message
    assert "--data-root" in message
    assert ("image-net.org" if name == "imagenet" else "--download") in message


def test_the_data_root_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HESSDIAG_DATA", str(tmp_path / "here"))
    assert "here" in refusal(lambda: datasets.load("mnist"))
    assert "there" in refusal(lambda: datasets.load("mnist", root="there"))
    monkeypatch.delenv("HESSDIAG_DATA")
    assert "under data" in refusal(lambda: datasets.load("mnist"))


def test_fashion_mnist_is_read_from_its_own_files(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 6), ("t10k", 4)):
        images = bytes([0, 0, 8, 3, *count.to_bytes(4), 0, 0, 0, 28, 0, 0, 0, 28])
        labels = bytes([0, 0, 8, 1, *count.to_bytes(4), *range(count)])
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images + bytes(count * 784))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    found = datasets.load("fashion-mnist", split="test", root=str(tmp_path))
    assert found.inputs.shape == (4, 1, 28, 28)
    assert found.targets.tolist() == [0, 1, 2, 3]
    assert found.num_classes == 10
    assert found.inputs.unique().tolist() == pytest.approx([-0.2860 / 0.3530])
    (raw / "train-images-idx3-ubyte").write_bytes(gzip.compress(b"damaged"))
    assert "cannot be found" in refusal(lambda: datasets.load("fashion-mnist", root=str(tmp_path)))


def test_a_failed_download_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision_datasets.CIFAR10, "download", fail)
    message = refusal(lambda: datasets.load("cifar10", root=str(tmp_path), download=True))
    assert "cannot be downloaded" in message
    assert "no network" in message


# --- folders ---------------------------------------------------------------------------------


def images_in(folder: Path, *sizes: tuple[int, int]) -> None:
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for index, size in enumerate(sizes):
            Image.new("RGB", size, (255 * label, 0, 0)).save(folder / name / f"{index}.png")


def test_folders_are_decoded_to_imagenets_evaluation_view(tmp_path: Path) -> None:
    images_in(tmp_path, (30, 20), (5, 9))
    found = datasets.load(f"folder:{tmp_path}", split="test")
    assert found.inputs.shape == (4, 3, 224, 224)
    assert found.targets.tolist() == [0, 0, 1, 1]
    assert found.classes == ("cat", "dog")
    assert found.inputs[2, 0].unique().tolist() == pytest.approx([(1 - 0.485) / 0.229])


def test_only_the_selected_images_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images_in(tmp_path, (4, 4), (4, 4), (4, 4))
    decoded: list[str] = []
    monkeypatch.setattr(
        vision, "decode", lambda path, _: decoded.append(path) or torch.zeros(2, 2, 3).byte()
    )
    assert datasets.load(f"folder:{tmp_path}", num_samples=2).num_samples == len(decoded) == 2


def test_folders_divide_into_train_and_test_or_val(tmp_path: Path) -> None:
    images_in(tmp_path / "train", (4, 4))
    spec = f"folder:{tmp_path}"
    assert datasets.load(spec).num_samples == 2
    assert "no test split" in refusal(lambda: datasets.load(spec, split="test"))
    images_in(tmp_path / "val", (4, 4), (4, 4))
    assert datasets.load(spec, split="test").num_samples == 4


def test_labels_of_a_split_are_those_of_train(tmp_path: Path) -> None:
    for name in ("train", "test"):
        images_in(tmp_path / name, (4, 4))
    spec = f"folder:{tmp_path}"
    whole = datasets.load(spec, split="test")
    first, last = whole.classes
    shutil.rmtree(tmp_path / "test" / first)
    assert datasets.load(spec, split="test").classes == whole.classes
    assert datasets.load(spec, split="test").targets.tolist() == [1]
    (tmp_path / "test" / last).rename(tmp_path / "test" / "other")
    assert "has classes that" in refusal(lambda: datasets.load(spec, split="test"))


@pytest.mark.parametrize(("kind", "mode"), [("uint16", "I;16"), ("float32", "F")])
def test_images_of_more_than_8_bits_are_refused(tmp_path: Path, kind: str, mode: str) -> None:
    images_in(tmp_path, (4, 4))
    place = next(tmp_path.glob("*/")) / "deep.tiff"
    Image.fromarray(np.full((4, 4), 40_000, kind)).save(place)
    assert mode in refusal(lambda: datasets.load(f"folder:{tmp_path}"))


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(lambda: datasets.load(f"folder:{tmp_path}/no"))
    assert "holds no images" in refusal(lambda: datasets.load(f"folder:{tmp_path}"))
    (tmp_path / "cat").mkdir()
    assert "holds no images" in refusal(lambda: datasets.load(f"folder:{tmp_path}"))
    (tmp_path / "cat" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\ngarbage")
    assert "0.png cannot be read" in refusal(lambda: datasets.load(f"folder:{tmp_path}"))
