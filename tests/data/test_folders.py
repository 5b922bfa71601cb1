"""Folders of images as they lie on disks: hidden files, links, pipes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torchvision
from PIL import Image

from hessdiag.data import datasets, vision
from hessdiag.errors import InputError


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    return str(caught.value)


def pictures(*places: Path) -> None:
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(place)


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", "__MACOSX", "@eaDir"])
@pytest.mark.parametrize("full", [True, False])
def test_hidden_folders_are_no_classes(tmp_path: Path, hidden: str, full: bool) -> None:
    pictures(*(tmp_path / name / "0.png" for name in ("cat", "dog")))
    pictures(*(place / "1.png" for place in (tmp_path / hidden, tmp_path / "dog" / hidden) if full))
    (tmp_path / hidden).mkdir(exist_ok=True)
    found = datasets.load(f"folder:{tmp_path}")
    assert (found.classes, found.targets.tolist()) == (("cat", "dog"), [0, 1])


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    pictures(tmp_path / "cat" / "0.png")
    for name in ("._0.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / "cat" / name).write_bytes(b"no image")
    assert datasets.load(f"folder:{tmp_path}").num_samples == 1


def test_folders_are_read_in_the_order_of_torchvision(tmp_path: Path) -> None:
    names = ("a/2.png", "a/b/1.PNG", "a/b-/1.png", "a/10.jpg", "c/x/y/z.png", "a-/0.png")
    pictures(*(tmp_path / name for name in names))
    found = vision.find(f"folder:{tmp_path}", "train", None)
    theirs = torchvision.datasets.ImageFolder(tmp_path)
    assert list(found.samples) == theirs.samples
    assert list(found.classes) == theirs.classes


def test_loops_of_links_end(tmp_path: Path) -> None:
    pictures(tmp_path / "cat" / "in" / "0.png")
    for name, target in (("up", ".."), ("self", "."), ("in/top", "../..")):
        (tmp_path / "cat" / name).symlink_to(target)
    assert datasets.load(f"folder:{tmp_path}/cat", num_samples=1).num_samples == 1
    assert datasets.load(f"folder:{tmp_path}").num_samples == 1


def test_a_pipe_among_images_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    os.mkfifo(tmp_path / "cat" / "0.png")
    assert "a device, a pipe" in refusal(lambda: datasets.load(f"folder:{tmp_path}"))
