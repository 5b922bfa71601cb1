"""Where examples come from: a reader turns one kind of ``--data`` into a ``Source``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import safetensors
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from hessdiag import bounds
from hessdiag.errors import InputError

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std of every channel

_INPUTS, _TARGETS = ("images", "inputs"), ("labels", "targets")
_DIGITS_STATISTICS = ((0.3051,), (0.3762,))  # of the training split


@dataclass(frozen=True, eq=False)
class Source:
    """All examples of one split, before any is selected.

    Attributes:
        num_samples: how many there are.
        take: from sorted indices, int64 (n,), to those inputs and targets, as stored.
        is_image: whether inputs are images: uint8 (N, H, W[, C]) or floating (N, C, H, W).
        white: the value that means 1 in uint8 images.
        statistics: mean and std to normalise images with; None where the data set has none.
        images: all uint8 images, to compute ``statistics`` from; None where it needs none.
        num_classes: how many classes there are, or None where that is unknown.
        classes: their names, or None.
    """

    num_samples: int
    take: Callable[[Tensor], tuple[Tensor, Tensor]]
    is_image: bool = True
    white: float = 255.0
    statistics: Statistics | None = None
    images: Tensor | None = None
    num_classes: int | None = None
    classes: tuple[str, ...] | None = None


def digits(split: str) -> Source:
    """Read the embedded 8×8 digits; of each class every fifth scan, in file order, is for test."""
    with resources.files("hessdiag.data").joinpath("digits.npz").open("rb") as stored:
        arrays = np.load(stored, allow_pickle=False)
        images, labels = arrays["images"], arrays["labels"]
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[4::5]] = True
    chosen = is_test if split == "test" else ~is_test
    return arrays_source(
        images[chosen],
        labels[chosen],
        classes=tuple("0123456789"),
        white=16.0,
        statistics=_DIGITS_STATISTICS,
    )


def file(path: Path) -> Source:
    """Read ``images`` or ``inputs``, ``labels`` or ``targets``, from ``.npz`` or ``.safetensors``.

    Raises:
        InputError: no such file, a damaged file, pickled objects, or arrays that are missing or
            of the wrong kind.
    """
    if not os.path.isfile(path):  # false, unlike Path.is_file, for a name that is too long
        raise InputError("the data file does not exist, or is no file", got=path)
    try:
        arrays = (_arrays if path.suffix.lower() == ".npz" else _tensors)(path)
    except InputError:
        raise
    except Exception as error:  # damaged bytes may raise anything
        raise InputError(f"the data file {path} cannot be read", got=reason(error)) from error
    inputs = next((name for name in _INPUTS if name in arrays), None)
    targets = next((name for name in _TARGETS if name in arrays), None)
    if inputs is None or targets is None:
        raise InputError(
            f"the data file {path} lacks arrays",
            got=", ".join(arrays) or "none of these",
            wanted="images or inputs, and labels or targets",
        )
    labels = to_tensor(arrays[targets])
    if targets == "labels" and (labels.is_floating_point() or labels.ndim != 1):
        raise InputError(
            f"the labels of {path} are not of a labels' kind",
            got=f"{labels.dtype} of shape {tuple(labels.shape)}",
            wanted="integers of shape (N,)",
            hint="the targets of a regression are called targets",
        )
    return arrays_source(
        arrays[inputs],
        labels,
        classes=_names(path, arrays["classes"]) if "classes" in arrays else None,
        is_image=inputs == "images",
    )


def _arrays(path: Path) -> dict[str, Any]:
    """Read the arrays of an ``.npz`` that mean something here, if they are within bounds."""
    size = os.path.getsize(path)
    with path.open("rb") as stored, np.load(stored, allow_pickle=False) as archive:
        present = {
            member.filename.removesuffix(".npy"): member for member in archive.zip.infolist()
        }
        wanted = [name for name in (*_INPUTS, *_TARGETS, "classes") if name in present]
        bounds.check(path, sum(present[name].file_size for name in wanted), size)
        for name in wanted:
            with archive.zip.open(present[name]) as member:
                shape, dtype = _header(member)
            if math.prod(shape) * dtype.itemsize > present[name].file_size:
                raise InputError(
                    f"the array {name} of {path} is larger than what is stored",
                    got=f"{dtype} of shape {shape}",
                    wanted=f"at most {present[name].file_size:,} bytes",
                )
        return {name: archive[name] for name in wanted}


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    old = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    return shape, dtype


def _tensors(path: Path) -> dict[str, Any]:
    """Read the tensors of a ``.safetensors`` that mean something here."""
    with safetensors.safe_open(path, "pt") as archive:
        wanted = [name for name in (*_INPUTS, *_TARGETS, "classes") if name in archive.keys()]  # noqa: SIM118
        return {name: archive.get_tensor(name).clone() for name in wanted}


def _names(path: Path, classes: Any) -> tuple[str, ...]:
    try:
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in classes)
    except (TypeError, ValueError, SystemError) as error:  # one value, or code points of no text
        raise InputError(f"the classes of {path} are no names", got=reason(error)) from error


def of_factory(spec: str, made: object) -> Source | None:
    """Make a source of (inputs, targets), or of a map-style torch data set of (x, y).

    Returns:
        None for data of any other form; of a data set, what its examples are is seen later.

    Raises:
        InputError: the arrays do not belong together, or the data set has no length.
    """
    if isinstance(made, tuple | list):
        pair = cast("Sequence[Any]", made)
        if len(pair) == 2 and not any(isinstance(item, Mapping) for item in pair):
            return arrays_source(pair[0], pair[1], is_image=False)
    if isinstance(made, Dataset) and not isinstance(made, IterableDataset):
        return _dataset_source(spec, cast("Dataset[Any]", made))
    return None


def is_pair(example: object) -> bool:
    """Tell (x, y) of arrays or numbers from an example of another form."""
    if not isinstance(example, tuple | list):
        return False
    pair = cast("Sequence[Any]", example)
    return len(pair) == 2 and all(map(_is_array, pair))


def _is_array(item: object) -> bool:
    """Tell an array, or nested lists of numbers."""
    if isinstance(item, Tensor | np.ndarray):
        return True
    while isinstance(item, list | tuple) and item:
        item = cast("Sequence[Any]", item)[0]
    return isinstance(item, int | float | np.number)


def arrays_source(
    inputs: Any,
    targets: Any,
    *,
    classes: tuple[str, ...] | None = None,
    is_image: bool = True,
    white: float = 255.0,
    statistics: Statistics | None = None,
) -> Source:
    """Make a source of two arrays; where no ``classes`` are named, the labels tell their number.

    Raises:
        InputError: the lengths differ, or images have an unknown form.
    """
    inputs, targets = to_tensor(inputs), to_tensor(targets)
    if inputs.ndim < 1 or targets.ndim < 1 or len(inputs) != len(targets):
        raise InputError(
            "inputs and targets differ in length",
            got=f"shapes {tuple(inputs.shape)} and {tuple(targets.shape)}",
        )
    is_byte = inputs.dtype == torch.uint8
    if is_image and not (
        (is_byte and (inputs.ndim == 3 or (inputs.ndim == 4 and inputs.shape[-1] <= 4)))
        or (inputs.is_floating_point() and inputs.ndim == 4)
    ):
        raise InputError(
            "the images have an unknown form",
            got=f"{inputs.dtype} of shape {tuple(inputs.shape)}",
            wanted="uint8 (N, H, W) or (N, H, W, C), or floating (N, C, H, W)",
        )
    if not is_image and not inputs.is_floating_point() and inputs.itemsize < 4:
        raise InputError(
            "the inputs are neither numbers nor tokens",
            got=f"{inputs.dtype} of shape {tuple(inputs.shape)}",
            wanted="floating numbers, or int64 for tokens",
            hint="bytes of images are read under the name images",
        )
    num_classes = len(classes) if classes else None
    if num_classes is None and targets.ndim == 1 and len(targets) and _is_integer(targets):
        num_classes = int(targets.max()) + 1
    return Source(
        num_samples=len(inputs),
        take=lambda indices: (inputs[indices], targets[indices]),
        is_image=is_image,
        white=white,
        statistics=statistics,
        images=inputs if is_image and is_byte and statistics is None else None,
        num_classes=num_classes,
        classes=classes,
    )


def _dataset_source(spec: str, dataset: Dataset[Any]) -> Source:
    """Ask a torch data set for the selected examples only."""

    def take(indices: Tensor) -> tuple[Tensor, Tensor]:
        try:
            pairs = [dataset[index] for index in indices.tolist()]
            inputs = torch.stack([to_tensor(x) for x, _ in pairs])
            return inputs, torch.stack([to_tensor(y) for _, y in pairs])
        except InputError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise InputError(
                f"the examples of the data factory {spec} cannot be read",
                got=reason(error),
                wanted="pairs (x, y) of tensors or numbers, all of one shape",
            ) from error

    try:
        num_samples = len(dataset)  # pyright: ignore[reportArgumentType]
    except (TypeError, NotImplementedError) as error:
        raise InputError(f"the data of the factory {spec} has no length") from error
    classes = getattr(dataset, "classes", None)
    names = tuple(map(str, classes)) if isinstance(classes, list | tuple) else None
    return Source(
        num_samples,
        take,
        is_image=False,
        num_classes=len(names) if names else None,
        classes=names,
    )


def to_tensor(array: Any) -> Tensor:
    """Turn an array of any byte order, strides or width into a tensor on the CPU.

    Raises:
        InputError: it does not hold real numbers.
    """
    if isinstance(array, Tensor):
        is_small = array.is_floating_point() and array.itemsize < 2
        if array.is_complex() or array.is_quantized or is_small:
            raise InputError("an array does not hold real numbers", got=f"dtype {array.dtype}")
        if array.layout != torch.strided or array.is_meta:
            got = array.device if array.is_meta else array.layout
            raise InputError("an array does not hold all its numbers", got=f"a tensor of {got}")
        is_wide = array.dtype in (torch.uint16, torch.uint32, torch.uint64)
        array = array.detach().cpu()
        if is_wide:
            array = array.to(torch.int64)
            _check_63_bits(array)
        return array
    try:
        array = np.asarray(array)
    except (ValueError, TypeError) as error:
        raise InputError("an array cannot be read", got=reason(error)) from error
    kind, width = array.dtype.kind, array.dtype.itemsize
    if kind not in "biuf":
        raise InputError("an array does not hold numbers", got=f"dtype {array.dtype}")
    dtype = array.dtype.newbyteorder("=")
    if kind == "u" and width > 1:
        array, dtype = array.astype(np.int64), np.dtype(np.int64)
        _check_63_bits(array)
    if kind == "f" and width > 8:
        dtype = np.dtype(np.float64)
    return torch.from_numpy(np.require(array, dtype, ["C", "W"]))


def _check_63_bits(array: Any) -> None:
    """Refuse what had 64 bits without a sign: with one, it is negative."""
    if (array < 0).any():
        raise InputError("an array holds numbers that take 64 bits", wanted="at most 63")


def expanded(path: str) -> Path:
    """Make a path of a text, with the home folder in the place of ``~``.

    Raises:
        InputError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError("the path names a user who is not known", got=path) from error


def reason(error: Exception) -> str:
    """Say in one line why something could not be read."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())
