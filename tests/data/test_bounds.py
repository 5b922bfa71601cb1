"""Files of data that ask for more memory than they have bytes, or hold odd kinds of numbers."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from hessdiag import bounds
from hessdiag.data import datasets
from hessdiag.errors import InputError


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    return str(caught.value)


def compressed(path: Path, **members: np.ndarray) -> str:
    np.savez_compressed(path, **members)
    return str(path)


FEW = {"images": np.zeros((4, 8, 8), np.uint8), "labels": np.arange(4)}


def test_what_expands_out_of_bounds_is_refused_unread(tmp_path: Path, monkeypatch) -> None:
    """A few bytes of compressed zeros may be any number of them."""
    monkeypatch.setattr(bounds, "LEAST", 1 << 20)
    many = np.zeros((1 << 21,), np.uint8)
    spec = compressed(tmp_path / "x.npz", images=many.reshape(-1, 8, 8), labels=many[: 1 << 15])
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda *_: pytest.fail("it is read"))
    assert "asks for far more memory than it has bytes" in refusal(lambda: datasets.load(spec))


def test_members_without_a_meaning_are_not_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bounds, "LEAST", 1 << 20)
    spec = compressed(tmp_path / "x.npz", junk=np.zeros(1 << 21, np.uint8), **FEW)
    assert datasets.load(spec).num_samples == 4


def test_an_array_larger_than_its_bytes_is_refused_unread(tmp_path: Path) -> None:
    spec = compressed(tmp_path / "x.npz", **FEW)
    with zipfile.ZipFile(spec) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["images.npy"] = members["images.npy"].replace(b"(4, 8, 8)", b"(4, 8, 9999999)")
    with zipfile.ZipFile(spec, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    assert "larger than what is stored" in refusal(lambda: datasets.load(spec))


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (12_000, 12_000)])
def test_an_image_out_of_bounds_is_refused_undecoded(tmp_path: Path, size, monkeypatch) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("1", size).save(tmp_path / "cat" / "0.png")
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it is decoded"))
    assert "too large, or too narrow" in refusal(lambda: datasets.load(f"folder:{tmp_path}"))


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_labels_of_any_unsigned_width(tmp_path: Path, dtype: str, suffix: str) -> None:
    arrays = {"inputs": np.zeros((4, 3), np.float32), "labels": np.arange(4).astype(dtype)}
    save = np.savez if suffix == ".npz" else lambda path, **kept: save_file(kept, path)
    save(tmp_path / f"x{suffix}", **arrays)
    assert datasets.load(str(tmp_path / f"x{suffix}")).targets.tolist() == [0, 1, 2, 3]
    if dtype == "uint64":  # of which 2^64 - 100 would be the label that does not count
        arrays["labels"][0] = 2**64 - 100
        save(tmp_path / f"x{suffix}", **arrays)
        assert "64 bits" in refusal(lambda: datasets.load(str(tmp_path / f"x{suffix}")))


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int8"])
def test_inputs_that_are_neither_numbers_nor_tokens(tmp_path: Path, dtype: str) -> None:
    np.savez(tmp_path / "x.npz", inputs=np.zeros((4, 3), dtype), labels=np.arange(4))
    assert "under the name images" in refusal(lambda: datasets.load(str(tmp_path / "x.npz")))


def test_classes_that_are_no_names(tmp_path: Path) -> None:
    odd = np.array(["a", "b", "c", "d"])
    odd.view(np.uint32)[0] = 0x110000  # no code point
    for classes in (np.array("cat"), odd):
        np.savez(tmp_path / "x.npz", classes=classes, **FEW)
        assert "are no names" in refusal(lambda: datasets.load(str(tmp_path / "x.npz")))


@pytest.mark.parametrize("form", ["{}/x.npz", "folder:{}"])
def test_a_user_who_is_not_known(form: str, monkeypatch) -> None:
    def expanduser(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", expanduser)
    spec = form.format("~nobody-of-this-name")
    assert "a user who is not known" in refusal(lambda: datasets.load(spec))


def test_where_a_test_split_is_looked_for(tmp_path: Path) -> None:
    said = datasets.where_a_test_split_is_looked_for
    assert said("a/x.npz") == "of a/x_train.npz it would be a/x_test.npz"
    assert said("x_train.safetensors") == "x_test.safetensors would be one"
    for name in ("x_train.npz", "x_test.npz"):
        np.savez(tmp_path / name, **FEW)
    assert datasets.has_test_split(str(tmp_path / "x_train.npz"))
