"""The space under the algorithms: all that Lanczos and Hutchinson know of their vectors.

A block holds k vectors as rows. Algorithms cut blocks by rows and scale them; whatever runs along
the vectors, sums above all, is the space's. Here they are flat, whole and on one device; the rows
that are kept may lie in host memory. Vectors cut into shards over processes are another space, see
:mod:`hessdiag.linalg.sharded_space`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessdiag.seeds import stream

Array = NDArray[np.float64]

Draw = Callable[[int, torch.Generator], Tensor]
"""Draws so many entries, one after another, on the CPU."""

CHUNK = 1 << 18
"""Columns reduced at once: partial sums of that length, added up in float64."""


def normal(count: int, generator: torch.Generator) -> Tensor:
    """Draw from N(0, 1) in float64, so that the draw depends on neither dtype nor device."""
    return torch.randn(count, generator=generator, dtype=torch.float64)


def signs(count: int, generator: torch.Generator) -> Tensor:
    """Draw ±1, each with chance 1/2."""
    return torch.randint(0, 2, (count,), generator=generator, dtype=torch.int8).mul_(2).sub_(1)


class Space(Protocol):
    """Operations on blocks of vectors; coefficients and inner products are float64."""

    def size(self, block: Tensor) -> int:
        """Tell the dimension n of the block's vectors."""
        ...

    def kept(self, count: int, like: Tensor) -> Tensor:
        """Make a stack of ``count`` rows to be kept, where the space keeps many."""
        ...

    def zeros(self, count: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Make a stack of ``count`` rows of the same kind."""
        ...

    def fill(self, row: Tensor, draw: Draw, generator: torch.Generator) -> None:
        """Draw the row's entries: the same vector, however it is cut."""
        ...

    def largest(self, block: Tensor) -> float:
        """Tell the largest magnitude of an entry."""
        ...

    def equal(self, left: Tensor, right: Tensor) -> bool:
        """Tell whether two blocks are one and the same."""
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
    """Vectors whole on one device: blocks are tensors ``(k, n)``.

    Args:
        on_host: whether rows that are kept lie in host memory; what is computed with them goes
            through the device a chunk of columns at a time.
    """

    def __init__(self, *, on_host: bool = False) -> None:
        self.on_host = on_host

    def with_host(self) -> Self:
        """Give the same space, its kept rows in host memory."""
        other = copy.copy(self)
        other.on_host = True
        return other

    def holds(self, other: FlatSpace) -> bool:
        """Tell whether vectors of another space, as long as these, lie as they do."""
        return type(other) is type(self)

    def size(self, block: Tensor) -> int:
        """Tell the dimension n."""
        return block.shape[-1]

    def kept(self, count: int, like: Tensor) -> Tensor:
        """Make ``(count, n)``, in host memory if so chosen: pinned, for a GPU's sake."""
        if not self.on_host:
            return self.zeros(count, like)
        pinned = like.device.type == "cuda"
        return torch.zeros(count, like.shape[-1], dtype=like.dtype, pin_memory=pinned)

    def zeros(self, count: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Make ``(count, n)``."""
        return like.new_zeros(count, like.shape[-1], dtype=dtype)

    def fill(self, row: Tensor, draw: Draw, generator: torch.Generator) -> None:
        """Draw the row's entries."""
        start = 0
        for count, stretch in stretches(self.size(row), generator):
            row[..., start : start + count] = draw(count, stretch).to(row)
            start += count

    def dots(self, left: Tensor, right: Tensor, at: slice | None = None) -> Array:
        """Inner products ``(k,)`` in float64: entries of 1e-30 have squares, too."""
        total = torch.zeros(len(left), dtype=torch.float64, device=left.device)
        for columns in self.columns(left, at):
            total += (left[:, columns].double() * right[:, columns].double()).sum(dim=1)
        return self.summed(total).cpu().numpy()

    def largest(self, block: Tensor) -> float:
        """Tell the largest magnitude; 0 of no rows."""
        return float(block.abs().max()) if block.numel() else 0.0

    def equal(self, left: Tensor, right: Tensor) -> bool:
        """Tell whether two blocks are one and the same."""
        return left.dtype == right.dtype and torch.equal(left, right)

    def norm(self, vector: Tensor) -> float:
        """Length of one vector ``(n,)``."""
        return math.sqrt(float(self.dots(vector[None], vector[None])[0]))

    def gram(self, left: Tensor, right: Tensor) -> Array:
        """Inner products ``(k, m)``, added up in float64 over chunks of columns."""
        total = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
        for columns in self.columns(left):
            total += left[:, columns] @ right[:, columns].to(left).T
        return self.summed(total).cpu().numpy()

    def add(self, block: Tensor, coefficients: Array, rows: Tensor) -> None:
        """Add ``coefficients @ rows`` in place, a chunk of columns at a time."""
        turn = torch.from_numpy(np.array(coefficients, order="C")).to(block)
        for target, slab in zip(block.split(CHUNK, dim=1), rows.split(CHUNK, dim=1), strict=True):
            target += turn @ slab.to(block)

    def combine(self, coefficients: Array, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute ``coefficients @ rows``, a chunk of columns at a time."""
        out = self.zeros(len(coefficients), rows) if out is None else out
        turn = torch.from_numpy(np.array(coefficients, order="C")).to(out)
        for target, slab in zip(out.split(CHUNK, dim=1), rows.split(CHUNK, dim=1), strict=True):
            target.copy_(turn @ slab.to(out))
        return out

    def columns(self, block: Tensor, at: slice | None = None) -> Iterator[slice]:
        """Cut the columns that inner products run over, those of ``at`` alone if given."""
        start, stop, _ = (at or slice(None)).indices(block.shape[-1])
        for begin in range(start, stop, CHUNK):
            yield slice(begin, min(begin + CHUNK, stop))

    def summed(self, total: Tensor) -> Tensor:
        """Complete the sums of inner products."""
        return total


FLAT = FlatSpace()

_STREAM = 1 << 28  # entries that one stream of random numbers gives, where many are not worth it
_SHORT = 1 << 20  # and where they are: a process that holds a shard draws what lies about it


def stretches(size: int, generator: torch.Generator) -> Iterator[tuple[int, torch.Generator]]:
    """Cut a random vector of ``size`` entries into stretches, each with its own generator.

    Long vectors have a stream for each stretch, so that none must draw them whole.
    """
    if size <= _STREAM:
        yield size, generator
        return
    seed = int(torch.randint(1 << 62, (), generator=generator))
    for index, start in enumerate(range(0, size, _SHORT)):
        own = torch.Generator().manual_seed(stream(seed, "stretch", index))
        yield min(_SHORT, size - start), own
