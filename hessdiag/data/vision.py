"""Sources that torchvision reads: its own data sets, and folders of images."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hessdiag.data.sources import Source, Statistics, arrays_source, expanded, reason, to_tensor
from hessdiag.errors import InputError, unknown

SIZE = 224
_RESIZED = 256  # the shorter side of an image, before its centre is taken
_LARGEST = 100_000_000  # pixels
_NO_CLASSES = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ARRAYS: dict[str, tuple[str, Statistics]] = {  # name: class in torchvision.datasets, statistics
    "cifar10": (
        "CIFAR10",
        ((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)),
    ),
    "cifar100": (
        "CIFAR100",
        ((129.3 / 255, 124.1 / 255, 112.4 / 255), (68.2 / 255, 65.4 / 255, 70.4 / 255)),
    ),
    "mnist": ("MNIST", ((0.1307,), (0.3081,))),
    "fashion-mnist": ("FashionMNIST", ((0.2860,), (0.3530,))),
}


def arrays(name: str, split: str, root: str | None, *, download: bool) -> Source:
    """Read one of the small data sets in ``ARRAYS`` from the data root.

    Raises:
        InputError: it is not there, is damaged, or cannot be downloaded.
    """
    from torchvision import datasets  # slow to import

    class_name, statistics = ARRAYS[name]
    place = _root(root)
    try:
        found = getattr(datasets, class_name)(place, train=split == "train", download=download)
    except Exception as error:  # damaged files and networks may raise anything
        raise InputError(
            f"the data set {name} cannot be {'downloaded' if download else 'found'}",
            got=reason(error),
            wanted=f"torchvision's files under {place}",
            hint="get it with --download, or name its folder with --data-root or HESSDIAG_DATA",
        ) from error
    return arrays_source(
        found.data, found.targets, classes=tuple(found.classes), statistics=statistics
    )


@dataclass(frozen=True)
class Folder:
    """Images as files, one folder a class; none is decoded yet.

    Attributes:
        path: folder of the class folders.
        samples: path, which begins with ``path``, and label of each image.
        classes: names of the classes.
    """

    path: str
    samples: tuple[tuple[str, int], ...]
    classes: tuple[str, ...]


def find(spec: str, split: str, root: str | None) -> Folder:
    """Find the images of ``imagenet`` or ``folder:DIR``.

    Raises:
        InputError: another ``spec``, or they are not there.
    """
    if spec == "imagenet":
        return _imagenet(split, root)
    if spec.startswith("folder:"):
        return _folder(expanded(spec.removeprefix("folder:")), split)
    raise unknown("data of image files", spec, ("imagenet", "folder:DIR"))


def folder_source(folder: Folder) -> Source:
    """Make a source that decodes only what is selected, in ImageNet's evaluation view."""

    def take(indices: Tensor) -> tuple[Tensor, Tensor]:
        chosen = [folder.samples[index] for index in indices.tolist()]
        view = evaluation_view()
        images = torch.stack([decode(path, view) for path, _ in chosen])
        return images, torch.tensor([label for _, label in chosen])

    return Source(
        len(folder.samples),
        take,
        statistics=IMAGENET_STATISTICS,
        num_classes=len(folder.classes),
        classes=folder.classes,
    )


def decode(path: str, view: Callable[[Any], Any]) -> Tensor:
    """Read one image of any mode as RGB, and take a view of it.

    Args:
        path: of the image.
        view: from a PIL image to a PIL image of H × W.

    Returns:
        uint8 (H, W, 3).

    Raises:
        InputError: the image is damaged.
    """
    from PIL import Image

    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"the image {path} is no file", got="a device, a pipe or a folder")
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")  # on odd metadata, which nothing here needs
            image = Image.open(file)
            _check_size(path, *image.size)
            if image.mode == "F" or image.mode.startswith("I"):
                raise InputError(
                    f"the image {path} has more than 8 bits a channel",
                    got=f"mode {image.mode}",
                    hint="scale it to 8 bits first: all above 255 would be white",
                )
            image = image.convert("RGB")
    except InputError:
        raise
    except Exception as error:  # damaged files may raise anything
        raise InputError(f"the image {path} cannot be read", got=reason(error)) from error
    return to_tensor(np.asarray(view(image)))


def _check_size(path: str, width: int, height: int) -> None:
    """Refuse an image that is too large, or would be once its shorter side is resized."""
    short, long = sorted((width, height))
    if width * height > _LARGEST or long * _RESIZED**2 > _LARGEST * short:
        raise InputError(
            f"the image {path} is too large, or too narrow to be resized",
            got=f"{width} × {height} pixels",
            wanted=f"at most {_LARGEST:,}, also with the shorter side at {_RESIZED}",
        )


def evaluation_view() -> Callable[[Any], Any]:
    """Build ImageNet's evaluation transform: the shorter side to 256, then the centre 224 × 224."""
    from torchvision.transforms import v2

    return v2.Compose([v2.Resize(_RESIZED), v2.CenterCrop(SIZE)])


def _imagenet(split: str, root: str | None) -> Folder:
    """Find ImageNet in the data root; its test split is the official validation set."""
    from torchvision import datasets

    place = _root(root)
    try:
        found = datasets.ImageNet(place, split="train" if split == "train" else "val")
    except Exception as error:
        raise InputError(
            "the data set imagenet cannot be found",
            got=reason(error),
            wanted=f"the official archives under {place}",
            hint="get them from https://image-net.org and name their folder with --data-root",
        ) from error
    names = tuple(words[0] for words in found.classes)
    return Folder(found.split_folder, tuple(found.samples), names)


def _folder(path: Path, split: str) -> Folder:
    """Find a folder of class folders, or of ``train`` and ``test`` (or ``val``) above them.

    Without such a division, the folder is one set, whatever the split. Hidden folders and files
    are left out. Classes are those of ``train`` if there is one, so that a label means the same in
    both.
    """
    if not os.path.isdir(path):
        raise InputError("the data folder does not exist", got=path)
    present = [name for name in ("train", "test", "val") if os.path.isdir(path / name)]
    if present:
        wanted = ("train",) if split == "train" else ("test", "val")
        chosen = [name for name in wanted if name in present]
        if not chosen:
            raise InputError(
                f"the folder {path} has no {split} split",
                got=", ".join(present),
                wanted=" or ".join(wanted),
            )
        path, train = path / chosen[0], path / ("train" if "train" in present else chosen[0])
    else:
        train = path
    here, classes = _visible(path), _visible(train)
    if unknown_ones := sorted({*here} - {*classes}):
        raise InputError(
            f"the folder {path} has classes that {train} has not",
            got=", ".join(unknown_ones[:8]),
            wanted="the same names in both",
        )
    samples = [
        (file, label)
        for label, name in enumerate(classes)
        if name in here
        for file in _images(path / name)
    ]
    if len({label for _, label in samples}) < len(here) or not here:
        empty = {classes.index(name) for name in here} - {label for _, label in samples}
        raise InputError(
            f"the folder {path} holds no images" + (" for some classes" if samples else ""),
            got=", ".join(classes[label] for label in sorted(empty)[:8]) or "no folders",
            wanted="one folder of images for each class",
        )
    return Folder(str(path), tuple(samples), tuple(classes))


def _visible(path: Path) -> list[str]:
    """List the folders within, but for those that a system or an editor keeps for itself."""
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and _is_shown(entry.name)]
    except OSError as error:
        raise InputError(f"the folder {path} cannot be read", got=error.strerror) from error
    return sorted(names)


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name not in _NO_CLASSES


def _images(path: Path) -> list[str]:
    """List the images in a folder and the folders below it, in the order of torchvision.

    A folder that is met again, through a link, is not entered a second time.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    found: list[tuple[str, list[str]]] = []
    seen: set[tuple[int, int]] = set()
    waiting = [str(path)]
    while waiting:
        folder = waiting.pop()
        names: list[str] = []
        try:
            status = os.stat(folder)
            if (identity := (status.st_dev, status.st_ino)) in seen:
                continue
            seen.add(identity)
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not _is_shown(entry.name):
                        continue
                    if entry.is_dir():
                        waiting.append(entry.path)
                    elif entry.name.lower().endswith(IMG_EXTENSIONS):
                        names.append(entry.name)
        except OSError as error:
            raise InputError(f"the folder {folder} cannot be read", got=error.strerror) from error
        found.append((folder, sorted(names)))
    return [os.path.join(folder, name) for folder, names in sorted(found) for name in names]


def _root(root: str | None) -> Path:
    return expanded(root or os.environ.get("HESSDIAG_DATA") or "data")
