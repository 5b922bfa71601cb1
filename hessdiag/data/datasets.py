"""The front door to data: a ``--data`` value becomes selected, normalised, checked tensors."""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from hessdiag import factories
from hessdiag.data import preparation, sources, streams, text, vision
from hessdiag.data.examples import Examples, gather
from hessdiag.data.sources import Source, Statistics
from hessdiag.errors import InputError, unknown
from hessdiag.metadata import TextForm

NAMES = ("digits", *vision.ARRAYS, "imagenet")
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

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Cut the examples into batches of at most ``size``; views, nothing is copied."""
        return list(zip(self.inputs.split(size), self.targets.split(size), strict=True))

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the bytes of the inputs, then the targets."""
        digest = hashlib.sha256()
        for tensor in (self.inputs, self.targets):
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def load_any(
    spec: str,
    *,
    split: str = "train",
    num_samples: int | None = None,
    seed: int = 0,
    label_noise: float = 0.0,
    noise_seed: int | None = None,
    text_form: TextForm | None = None,
    **others: Any,
) -> Dataset | Examples:
    """Load what ``load`` does, at most 512 examples by default, and data of any other form.

    Those are ``text:FILE``, and a factory's batches or examples as a network takes them: a data
    loader, a data set of mappings, any iterable of batches.

    Args:
        spec: as ``load``, or ``text:FILE``.
        split: as ``load``.
        num_samples: as ``load``; of a loader or iterable, the first ones.
        seed: as ``load``; of a loader's shuffling as well.
        label_noise: as ``load``; not of data of any other form.
        noise_seed: as ``load``.
        text_form: how the network takes text.
        **others: arguments of ``load``, for data that it reads.

    Raises:
        InputError: as ``load``.
    """
    if spec.startswith(text.PREFIX):
        _refuse_noise(label_noise)
        return text.load(spec, split, text_form, num_samples, seed)
    if not factories.is_factory(spec):
        return load(
            spec,
            split=split,
            num_samples=num_samples,
            at_most=preparation.AT_MOST,
            seed=seed,
            label_noise=label_noise,
            noise_seed=noise_seed,
            **others,
        )
    preparation.check_split(split)
    made = factories.call(spec, "data")
    wanted = preparation.AT_MOST if num_samples is None else num_samples
    if not _has_pairs(made):
        _refuse_noise(label_noise)
        return gather(spec, split, made, wanted, seed)
    source = sources.of_factory(spec, made)
    assert source is not None
    if num_samples is None:
        wanted = min(wanted, source.num_samples)
    noise = label_noise, seed if noise_seed is None else noise_seed
    return _selected(source, spec, split, wanted, seed, None, noise)


def _refuse_noise(label_noise: float) -> None:
    if label_noise:
        raise InputError("`label_noise` needs labels of classes", got="data of another form")


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
    label_noise: float = 0.0,
    noise_seed: int | None = None,
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
        label_noise: share of the training labels that are drawn anew, see
            :func:`hessdiag.data.preparation.redraw`; other splits keep theirs.
        noise_seed: seed of that; None for ``seed``.

    Returns:
        The examples, on the CPU.

    Raises:
        InputError: data that is unknown, missing, damaged, empty or not finite; labels that are
            negative or exceed the classes; more samples wanted than there are; mean and std that
            do not fit.
    """
    preparation.check_split(split)
    source = _open(spec, split, root, download)
    given = preparation.given_statistics(mean, std)
    if num_samples is None and at_most is not None:
        num_samples = min(at_most, source.num_samples)
    noise = (label_noise if split == "train" else 0.0, seed if noise_seed is None else noise_seed)
    return _selected(source, spec, split, num_samples, seed, given, noise)


def _selected(
    source: Source,
    spec: str,
    split: str,
    num_samples: int | None,
    seed: int,
    given: Statistics | None,
    noise: tuple[float, int] = (0.0, 0),
) -> Dataset:
    """Take a random subset of a source, normalised and checked, a share of its labels redrawn."""
    indices = preparation.select(source.num_samples, num_samples, seed)
    inputs, targets = source.take(indices)
    statistics = (given if source.is_image else None) or source.statistics
    if statistics is None and source.images is not None:
        statistics = preparation.measure(source.images, source.white)
    if source.is_image:
        inputs = preparation.normalise(inputs, statistics, source.white)
    _check_finite("inputs", inputs)
    _check_finite("targets", targets)
    if not targets.is_floating_point():
        targets = targets.to(torch.int64)
        check_labels(targets, source.num_classes)
    targets = preparation.redraw(targets, indices, source.num_samples, source.num_classes, *noise)
    mean, std = statistics or (None, None)
    return Dataset(spec, split, inputs, targets, source.num_classes, mean, std, source.classes)


def has_test_split(spec: str) -> bool:
    """Tell whether ``load`` would find a test split apart from the training split."""
    if spec.startswith("folder:"):
        folder = sources.expanded(spec.removeprefix("folder:"))
        return any(os.path.isdir(folder / name) for name in ("test", "val"))
    if spec.lower().endswith(_SUFFIXES):
        path = sources.expanded(spec)
        try:
            return _file_of_split(path, "test") != _file_of_split(path, "train")
        except InputError:
            return False
    return spec in NAMES


def where_a_test_split_is_looked_for(spec: str) -> str:
    """Say in words by which name ``load`` would find a test split."""
    if spec.startswith("folder:"):
        return "folders train and test (or val) within it would be two splits"
    if not spec.lower().endswith(_SUFFIXES):
        return "a factory's data are one split"
    path = Path(spec)
    stem = path.stem.removesuffix("_train")
    test = path.with_name(f"{stem}_test{path.suffix}")
    if stem != path.stem:
        return f"{test} would be one"
    return f"of {path.with_name(f'{stem}_train{path.suffix}')} it would be {test}"


def check_labels(targets: Tensor, num_classes: int | None) -> None:
    """Check that ``targets`` are class labels that a network with ``num_classes`` outputs has.

    Args:
        targets: any shape; −100 stands for one that does not count, as in torch.
        num_classes: number of classes; None checks only that the labels are not negative.

    Raises:
        InputError: they are not integers, or out of range.
    """
    if targets.is_floating_point() or targets.is_complex():
        raise InputError("the class labels are no integers", got=targets.dtype)
    targets = targets[targets != preparation.IGNORED]
    if not targets.numel():
        raise InputError("no class label counts", got=f"{preparation.IGNORED} throughout")
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
    if streams.is_streamed(spec):
        return vision.folder_source(vision.find(spec, split, root))
    if spec.lower().endswith(_SUFFIXES):
        return sources.file(_file_of_split(sources.expanded(spec), split))
    if spec.startswith(text.PREFIX):
        raise InputError("the recipes train classifiers", got=f"text, --data {spec}")
    if factories.is_factory(spec):
        return _of_pairs(spec)
    forms = ("folder:DIR", "text:FILE", "FILE.npz", "FILE.safetensors", "package.module:factory")
    hint = f"folder:{spec} reads a folder of images" if os.path.isdir(spec) else None
    raise unknown("data", spec, (*NAMES, *forms), hint=hint)


def _has_pairs(made: object) -> bool:
    """Tell (inputs, targets), or a data set of (x, y), from data of another form."""
    if isinstance(made, torch.utils.data.Dataset) and not isinstance(made, IterableDataset):
        try:
            return sources.is_pair(cast("Any", made)[0])
        except Exception:  # the user's code may raise anything, which is told when it is read
            return True
    return sources.is_pair(made)


def _of_pairs(spec: str) -> Source:
    made = factories.call(spec, "data")
    source = sources.of_factory(spec, made)
    if source is None:
        raise InputError(
            f"the data factory {spec} returned no data of (x, y)",
            got=type(made).__name__,
            wanted="(inputs, targets) as arrays or tensors, or a torch Dataset of (x, y)",
        )
    return source


def _file_of_split(path: Path, split: str) -> Path:
    if "{split}" in str(path):
        return Path(str(path).replace("{split}", split))
    if split == "test" and path.stem.endswith("_train"):
        sibling = path.with_name(path.stem.removesuffix("_train") + "_test" + path.suffix)
        if not os.path.isfile(sibling):
            raise InputError(
                f"the file {path} holds the training split only",
                wanted=sibling,
                hint="put the test split there, or name its file",
            )
        return sibling
    return path


def _check_finite(name: str, tensor: Tensor) -> None:
    if not tensor.isfinite().all():
        raise InputError(f"the {name} hold NaN or Inf")
