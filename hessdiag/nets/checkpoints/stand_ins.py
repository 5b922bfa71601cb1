"""What may lie beside tensors in a pickle, rebuilt without the code that it names.

``torch.load(weights_only=True)`` knows tensors and plain Python values. Training scripts also save
numbers and arrays of numpy, the namespace of their options, or paths. For each of these names the
unpickler gets a class of this file, which holds what it is given and calls nothing.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Generator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

_FOREIGN = ">" if sys.byteorder == "little" else "<"


class _Inert:
    """Takes anything, and is nothing but its attributes."""

    def __init__(self, *_: Any) -> None:
        pass


class _Dtype:
    """A dtype of numpy by its name; byte order comes with its state."""

    def __init__(self, name: object = "", *_: Any) -> None:
        self.name, self.is_foreign = name if isinstance(name, str) else "", False

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple):
            self.is_foreign = cast("tuple[Any, ...]", state)[1:2] == (_FOREIGN,)

    def numbers(self) -> np.dtype[Any] | None:
        """Give numpy's own dtype where it is one of numbers."""
        try:
            dtype = np.dtype(self.name)
        except (TypeError, ValueError):
            return None
        if dtype.kind not in "biuf":
            return None
        return dtype.newbyteorder("S") if self.is_foreign else dtype


class Array:
    """An array of numpy: shape, dtype and bytes, as its pickle holds them."""

    def __init__(self, *_: Any) -> None:
        self.shape: object = ()
        self.dtype: object = None
        self.content: object = b""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(cast("tuple[Any, ...]", state)) == 5:
            _, self.shape, self.dtype, self.is_columns, self.content = cast(
                "tuple[Any, ...]", state
            )

    def tensor(self) -> Tensor | None:
        """Make a tensor of it; None where it is no array of numbers of just this size."""
        dtype = self.dtype.numbers() if isinstance(self.dtype, _Dtype) else None
        if dtype is None or not isinstance(self.content, bytes) or not _is_shape(self.shape):
            return None
        shape = cast("tuple[int, ...]", self.shape)
        if math.prod(shape) * dtype.itemsize != len(self.content):
            return None
        array = np.frombuffer(self.content, dtype).astype(dtype.newbyteorder("="))
        return torch.from_numpy(array.reshape(shape, order="F" if self.is_columns else "C").copy())


def _scalar(dtype: object = None, content: object = b"") -> object:
    """Rebuild a number of numpy as one of Python."""
    numbers = dtype.numbers() if isinstance(dtype, _Dtype) else None
    if numbers is None or not isinstance(content, bytes) or len(content) != numbers.itemsize:
        return None
    return np.frombuffer(content, numbers)[0].item()


def _array(*_: Any) -> Array:
    return Array()


def _dict(*_: Any) -> dict[Any, Any]:
    return {}


_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NAMES: list[Any] = [
    *((_scalar, f"{module}.scalar") for module in _NUMPY),
    *((_array, f"{module}._reconstruct") for module in _NUMPY),
    (Array, "numpy.ndarray"),
    (_Dtype, "numpy.dtype"),
    (_dict, "collections.defaultdict"),
    *((_Inert, f"builtins.{name}") for name in ("list", "dict", "int", "float", "str", "tuple")),
    (_Inert, "argparse.Namespace"),
    *(
        (_Inert, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "Path")
    ),
]


@contextlib.contextmanager
def admitted() -> Generator[None]:
    """Let ``torch.load`` take these classes for the names they stand for."""
    with torch.serialization.safe_globals(_NAMES):
        yield


def _is_shape(shape: object) -> bool:
    return isinstance(shape, tuple) and all(
        type(size) is int and size >= 0 for size in cast("tuple[object, ...]", shape)
    )
