"""The front door to data: a ``--data`` value becomes selected, normalised, checked tensors."""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hessdiag import factories, seeds
from hessdiag.data import sources, vision
from hessdiag.data.sources import Source, Statistics
from hessdiag.errors import InputError, unknown

NAMES = ("digits", *vision.ARRAYS, "imagenet")
SPLITS = ("train", "test")
_SUFFIXES = (".npz", ".safetensors")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Selected examples, ready for a network.

    Attributes:
        spec: the ``--data`` value they come from.
        split: ``train`` or ``test``.
        inputs: (N, …); images are float32 (N, C, H, W), normalised; others are as given.
        targets: (N, …), int64 class labels or floating values.
        num_classes: number of classes, or None where that is unknown.
        mean: per-channel mean that was subtracted from images in [0, 1], or None.
        std: per-channel divisor, likewise.
        classes: names of the classes, or None.
    """

    spec: str
    split: str
    inputs: Tensor
    targets: Tensor
    num_classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None

    @property
    def num_samples(self) -> int:
        """Number of examples."""
        return len(self.inputs)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the bytes of the inputs, then the targets."""
        digest = hashlib.sha256()
        for tensor in (self.inputs, self.targets):
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def load(
    spec: str,
    *,
    split: str = "train",
    num_samples: int | None = None,
    at_most: int | None = None,
    seed: int = 0,
    root: str | None = None,
    download: bool = False,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Dataset:
    """Load the data that ``spec`` names.

    A file holds one split: ``{split}`` in its name is replaced, and the test split of
    ``x_train.npz`` is ``x_test.npz``; any other file is used as it is. Images without mean and std
    of their own, in ``uint8``, get those of the whole file.

    Args:
        spec: ``digits``, ``cifar10``, ``cifar100``, ``mnist``, ``fashion-mnist``, ``imagenet``,
            ``folder:DIR``, a ``.npz`` or ``.safetensors`` file, or ``package.module:factory``.
        split: ``train`` or ``test``.
        num_samples: size of a random subset without replacement, in stored order; None for all.
        at_most: size of the subset where ``num_samples`` is None, or all if there are fewer.
        seed: seed of that subset.
        root: where torchvision's data sets lie; default ``$HESSDIAG_DATA``, else ``data``.
        download: whether torchvision may download them there.
        mean: per-channel mean of images in [0, 1], instead of the data set's own; inputs that are
            no images stay as they are.
        std: per-channel divisor, likewise; both or neither.

    Returns:
        The examples, on the CPU.

    Raises:
        InputError: data that is unknown, missing, damaged, empty or not finite; labels that are
            negative or exceed the classes; more samples wanted than there are; mean and std that
            do not fit.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    source = _open(spec, split, root, download)
    given = _given_statistics(mean, std)
    if num_samples is None and at_most is not None:
        num_samples = min(at_most, source.num_samples)
    inputs, targets = source.take(_select(source.num_samples, num_samples, seed))
    statistics = (given if source.is_image else None) or source.statistics
    if statistics is None and source.images is not None:
        statistics = _measure(source.images, source.white)
    if source.is_image:
        inputs = _normalise(inputs, statistics, source.white)
    _check_finite("inputs", inputs)
    _check_finite("targets", targets)
    if not targets.is_floating_point():
        targets = targets.to(torch.int64)
        check_labels(targets, source.num_classes)
    mean, std = statistics or (None, None)
    return Dataset(spec, split, inputs, targets, source.num_classes, mean, std, source.classes)


def has_test_split(spec: str) -> bool:
    """Tell whether ``load`` would find a test split apart from the training split."""
    if spec.startswith("folder:"):
        folder = Path(spec.removeprefix("folder:")).expanduser()
        return any((folder / name).is_dir() for name in ("test", "val"))
    if spec.lower().endswith(_SUFFIXES):
        path = Path(spec).expanduser()
        try:
            return _file_of_split(path, "test") != _file_of_split(path, "train")
        except InputError:
            return False
    return spec in NAMES


def check_labels(targets: Tensor, num_classes: int | None) -> None:
    """Check that ``targets`` are class labels that a network with ``num_classes`` outputs has.

    Args:
        targets: any shape.
        num_classes: number of classes; None checks only that the labels are not negative.

    Raises:
        InputError: they are not integers, or out of range.
    """
    if targets.is_floating_point() or targets.is_complex():
        raise InputError("the class labels are no integers", got=targets.dtype)
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        raise InputError(
            "class labels are out of range",
            got=f"{low} to {high}",
            wanted=f"0 to {'…' if num_classes is None else num_classes - 1}",
        )


def _open(spec: str, split: str, root: str | None, download: bool) -> Source:
    if spec == "digits":
        return sources.digits(split)
    if spec in vision.ARRAYS:
        return vision.arrays(spec, split, root, download=download)
    if spec == "imagenet":
        return vision.imagenet(split, root)
    if spec.startswith("folder:"):
        return vision.folder(Path(spec.removeprefix("folder:")).expanduser(), split)
    if spec.lower().endswith(_SUFFIXES):
        return sources.file(_file_of_split(Path(spec).expanduser(), split))
    if factories.is_factory(spec):
        return sources.factory(spec)
    forms = ("folder:DIR", "FILE.npz", "FILE.safetensors", "package.module:factory")
    hint = f"folder:{spec} reads a folder of images" if Path(spec).is_dir() else None
    raise unknown("data", spec, (*NAMES, *forms), hint=hint)


def _file_of_split(path: Path, split: str) -> Path:
    if "{split}" in str(path):
        return Path(str(path).replace("{split}", split))
    if split == "test" and path.stem.endswith("_train"):
        sibling = path.with_name(path.stem.removesuffix("_train") + "_test" + path.suffix)
        if not sibling.is_file():
            raise InputError(
                f"the file {path} holds the training split only",
                wanted=sibling,
                hint="put the test split there, or name its file",
            )
        return sibling
    return path


def _select(available: int, wanted: int | None, seed: int) -> Tensor:
    """Choose the indices of a random subset, sorted."""
    if available == 0:
        raise InputError("the data is empty")
    if wanted is None:
        return torch.arange(available)
    if not 1 <= wanted <= available:
        raise InputError(
            "the number of samples is out of range", got=wanted, wanted=f"1 to {available}"
        )
    generator = torch.Generator().manual_seed(seeds.stream(seed, "sample"))
    return torch.randperm(available, generator=generator)[:wanted].sort().values


def _given_statistics(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Statistics | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise InputError("mean and std go together", got=f"mean {mean}, std {std}")
    if not all(map(math.isfinite, (*mean, *std))) or min(std, default=0) <= 0:
        raise InputError(
            "mean and std are out of range",
            got=f"mean {mean}, std {std}",
            wanted="finite numbers, and std above 0",
        )
    return tuple(mean), tuple(std)


def _measure(images: Tensor, white: float) -> Statistics:
    """Compute every channel's mean and std exactly, from its histogram; a constant's std is 1."""
    channels = images.unsqueeze(-1) if images.ndim == 3 else images
    levels = torch.arange(256, dtype=torch.float64) / white
    means: list[float] = []
    stds: list[float] = []
    for channel in channels.unbind(-1):
        weights = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = float((weights * levels).sum())
        std = float((weights * (levels - mean) ** 2).sum().sqrt())
        means.append(mean)
        stds.append(std or 1.0)
    return tuple(means), tuple(stds)


def _normalise(images: Tensor, statistics: Statistics | None, white: float) -> Tensor:
    """Turn uint8 (N, H, W[, C]) or floating (N, C, H, W) into normalised float32 (N, C, H, W).

    May overwrite ``images``, which are a copy of what the source holds.
    """
    if images.dtype == torch.uint8:
        channels = images.unsqueeze(-1) if images.ndim == 3 else images
        images = channels.movedim(-1, 1).to(torch.float32).contiguous().div_(white)
    images = images.to(torch.float32)
    if statistics is None:
        return images
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in statistics)
    if len(mean) != images.shape[1] or len(std) != images.shape[1]:
        raise InputError(
            "mean and std do not fit the images",
            got=f"{len(mean)} and {len(std)} values",
            wanted=f"{images.shape[1]}, one for each channel",
        )
    return images.sub_(mean).div_(std)


def _check_finite(name: str, tensor: Tensor) -> None:
    if not tensor.isfinite().all():
        raise InputError(f"the {name} hold NaN or Inf")
