"""Sources that torchvision reads: its own data sets, and folders of images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hessdiag.data.sources import Source, Statistics, arrays_source, reason, to_tensor
from hessdiag.errors import InputError

_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
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


def imagenet(split: str, root: str | None) -> Source:
    """Read ImageNet from the data root; its test split is the official validation set.

    Raises:
        InputError: it is not there.
    """
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
    return _images_source(found.samples, tuple(words[0] for words in found.classes))


def folder(path: Path, split: str) -> Source:
    """Read a folder of class folders, or of ``train`` and ``test`` (or ``val``) above them.

    Without such a division, the folder is one set, whatever the split.

    Raises:
        InputError: no such folder, no such split, or no images.
    """
    from torchvision import datasets

    if not path.is_dir():
        raise InputError("the data folder does not exist", got=path)
    present = [name for name in ("train", "test", "val") if (path / name).is_dir()]
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
    return _images_source(found.samples, tuple(found.classes))


def _images_source(samples: list[tuple[str, int]], classes: tuple[str, ...]) -> Source:
    """Decode only what is selected, with ImageNet's evaluation transform: 256, centre 224."""

    def take(indices: Tensor) -> tuple[Tensor, Tensor]:
        chosen = [samples[index] for index in indices.tolist()]
        images = torch.stack([_decode(path) for path, _ in chosen])
        return images, torch.tensor([label for _, label in chosen])

    return Source(
        len(samples),
        take,
        statistics=_IMAGENET_STATISTICS,
        num_classes=len(classes),
        classes=classes,
    )


def _decode(path: str) -> Tensor:
    """Read one image as uint8 (224, 224, 3)."""
    from torchvision.datasets.folder import pil_loader
    from torchvision.transforms import v2

    try:
        image = pil_loader(path)
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on damaged files
        raise InputError(f"the image {path} cannot be read", got=reason(error)) from error
    return to_tensor(np.asarray(v2.CenterCrop(224)(v2.Resize(256)(image))))


def _root(root: str | None) -> Path:
    return Path(root or os.environ.get("HESSDIAG_DATA") or "data")
