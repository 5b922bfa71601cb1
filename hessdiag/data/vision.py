"""Sources that torchvision reads: its own data sets, and folders of images."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hessdiag.data.sources import Source, Statistics, arrays_source, reason, to_tensor
from hessdiag.errors import InputError, unknown

SIZE = 224
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
        return _folder(Path(spec.removeprefix("folder:")).expanduser(), split)
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
    from torchvision.datasets.folder import pil_loader

    try:
        image = pil_loader(path)
    except Exception as error:  # damaged files may raise anything
        raise InputError(f"the image {path} cannot be read", got=reason(error)) from error
    return to_tensor(np.asarray(view(image)))


def evaluation_view() -> Callable[[Any], Any]:
    """Build ImageNet's evaluation transform: the shorter side to 256, then the centre 224 × 224."""
    from torchvision.transforms import v2

    return v2.Compose([v2.Resize(256), v2.CenterCrop(SIZE)])


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

    Without such a division, the folder is one set, whatever the split.
    """
    from torchvision import datasets

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
        path = path / chosen[0]
    try:
        found = datasets.ImageFolder(path)
    except OSError as error:
        raise InputError(
            f"the folder {path} holds no images",
            got=reason(error),
            wanted="one folder of images for each class",
        ) from error
    return Folder(str(path), tuple(found.samples), tuple(found.classes))


def _root(root: str | None) -> Path:
    return Path(root or os.environ.get("HESSDIAG_DATA") or "data")
