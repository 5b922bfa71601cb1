"""The space under the algorithms: all that Lanczos and Hutchinson know of their vectors.

A block holds k vectors as rows. Algorithms cut blocks by rows and scale them; whatever runs along
the vectors, sums above all, is the space's. Here they are flat, whole and on one device. Vectors
cut into shards over processes, or rows that lie in host memory, are other spaces.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

_CHUNK = 1 << 18  # columns reduced at once: partial sums of that length, added up in float64


class Space(Protocol):
    """Operations on blocks of vectors; coefficients and inner products are float64."""

    def size(self, block: Tensor) -> int:
        """Tell the dimension n of the block's vectors."""
        ...

    def zeros(self, count: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Make a stack of ``count`` rows of the same kind."""
        ...

    def fill_normal(self, row: Tensor, generator: torch.Generator) -> None:
        """Draw the row's entries from N(0, 1)."""
        ...

    def largest(self, block: Tensor) -> float:
        """Tell the largest magnitude of an entry."""
        ...

    def dots(self, left: Tensor, right: Tensor, at: slice | None = None) -> Array:
        """Inner products ``(k,)`` row by row, of the coordinates ``at`` alone if given."""
        ...

    def gram(self, left: Tensor, right: Tensor) -> Array:
        """Inner products ``(k, m)`` of all rows with all rows."""
        ...

    def add(self, block: Tensor, coefficients: Array, rows: Tensor) -> None:
        """Add ``coefficients @ rows`` to the block in place."""
        ...

    def combine(self, coefficients: Array, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute ``coefficients @ rows`` in the type of ``out``, which may be the first rows."""
        ...


class FlatSpace:
    """Vectors whole on one device: blocks are tensors ``(k, n)``."""

    def size(self, block: Tensor) -> int:
        """Tell the dimension n."""
        return block.shape[-1]

    def zeros(self, count: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Make ``(count, n)``."""
        return like.new_zeros(count, like.shape[-1], dtype=dtype)

    def fill_normal(self, row: Tensor, generator: torch.Generator) -> None:
        """Draw in float64 on the CPU, so that the draw depends on neither dtype nor device."""
        row.copy_(torch.randn(self.size(row), generator=generator, dtype=torch.float64))

    def dots(self, left: Tensor, right: Tensor, at: slice | None = None) -> Array:
        """Inner products ``(k,)`` in float64: entries of 1e-30 have squares, too."""
        at = slice(None) if at is None else at
        total = torch.zeros(len(left), dtype=torch.float64, device=left.device)
        for a, b in zip(left[:, at].split(_CHUNK, 1), right[:, at].split(_CHUNK, 1), strict=True):
            total += (a.double() * b.double()).sum(dim=1)
        return total.cpu().numpy()

    def largest(self, block: Tensor) -> float:
        """Tell the largest magnitude; 0 of no rows."""
        return float(block.abs().max()) if block.numel() else 0.0

    def gram(self, left: Tensor, right: Tensor) -> Array:
        """Inner products ``(k, m)``, added up in float64 over chunks of columns."""
        total = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
        for a, b in zip(left.split(_CHUNK, dim=1), right.split(_CHUNK, dim=1), strict=True):
            total += a @ b.T
        return total.cpu().numpy()

    def add(self, block: Tensor, coefficients: Array, rows: Tensor) -> None:
        """Add ``coefficients @ rows`` in place, a chunk of columns at a time."""
        turn = torch.from_numpy(np.array(coefficients, order="C")).to(block)
        for target, slab in zip(block.split(_CHUNK, dim=1), rows.split(_CHUNK, dim=1), strict=True):
            target += turn @ slab.to(block.dtype)

    def combine(self, coefficients: Array, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute ``coefficients @ rows``, a chunk of columns at a time."""
        out = self.zeros(len(coefficients), rows) if out is None else out
        turn = torch.from_numpy(np.array(coefficients, order="C")).to(out)
        for target, slab in zip(out.split(_CHUNK, dim=1), rows.split(_CHUNK, dim=1), strict=True):
            target.copy_(turn @ slab.to(out.dtype))
        return out


FLAT = FlatSpace()
