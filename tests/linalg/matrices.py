"""Symmetric matrices of prescribed spectra, and a loop that drives a generator against one."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hessdiag.linalg.lanczos import LanczosResult

Result = TypeVar("Result")

SPECTRA: dict[str, NDArray[np.float64]] = {
    "indefinite": np.linspace(-3.0, 5.0, 240),
    "clustered": np.r_[np.linspace(-1e-3, 1e-3, 220), 1 + 1e-4 * np.arange(12), np.arange(-8.0, 0)],
    "geometric": np.r_[-(0.8 ** np.arange(40)), 100 * 0.9 ** np.arange(200)],
    "near-multiple": np.r_[
        np.linspace(0.0, 1.0, 232), 2, 2 + 1e-7, 2 + 2e-7, 3, 3 + 1e-6, -1, -1, 4
    ],
    "one outlier": np.r_[np.full(239, 1e-2), 1e3],
}
"""Eigenvalues in dimension 240."""

F32, F64 = torch.float32, torch.float64
EPS = {dtype: torch.finfo(dtype).eps for dtype in (F32, F64)}
each_dtype = pytest.mark.parametrize("dtype", [F32, F64], ids=str)
each_spectrum = pytest.mark.parametrize("name", SPECTRA)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.asarray(np.random.default_rng(seed).standard_normal(shape))).to(
        dtype
    )


def symmetric(eigenvalues: ArrayLike, *, seed: int = 0) -> Tensor:
    """Build a float64 matrix with these eigenvalues and random eigenvectors."""
    values = torch.as_tensor(np.asarray(eigenvalues, dtype=np.float64))
    rows, _ = torch.linalg.qr(normal(len(values), len(values), seed=seed))
    matrix = (rows.T * values) @ rows
    return (matrix + matrix.T) / 2


def low_rank(size: int, eigenvalues: ArrayLike, *, seed: int = 0) -> Tensor:
    """Build a float64 matrix ``(size, size)`` with these eigenvalues and zeros otherwise."""
    values = torch.as_tensor(np.asarray(eigenvalues, dtype=np.float64))
    columns, _ = torch.linalg.qr(normal(size, len(values), seed=seed))
    matrix = (columns * values) @ columns.T
    return (matrix + matrix.T) / 2


def run(
    generator: Generator[Tensor, Tensor, Result],
    matrix: Tensor,
    look: Callable[[Tensor, Tensor], object] | None = None,
) -> Result:
    """Drive ``generator`` to its end, answering with the products of ``matrix``.

    ``look`` is shown each block and its products before they are sent.
    """
    vectors = next(generator)
    while True:
        products = vectors @ matrix
        if look is not None:
            look(vectors, products)
        try:
            vectors = generator.send(products)
        except StopIteration as stop:
            return stop.value


def ends(result: LanczosResult) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the values at the top (descending) and at the bottom (ascending)."""
    top, bottom = ([ritz.value for ritz in end] for end in (result.top, result.bottom))
    return np.array(top), np.array(bottom)
