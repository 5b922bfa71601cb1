"""Vectors as shards over the processes of a device mesh.

Each process holds, one after another, its pieces of the tensors that a vector is made of; an inner
product is a local one and a sum over the processes. A random vector is the one that a single
process would draw: each keeps what is its own of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from hessdiag.linalg.space import CHUNK, Draw, FlatSpace, stretches

_LEAST = 16  # torch draws normal numbers by so many at once, the last ones too


@dataclass(frozen=True)
class Piece:
    """A process's part of one tensor of a vector, cut along at most one dimension.

    Attributes:
        outer: product of the sizes before that dimension.
        size: of that dimension in the whole tensor.
        inner: product of the sizes behind it.
        start: first index along it that is here.
        stop: index behind the last one.
        counts: whether inner products count it here; of copies, one does.
    """

    outer: int
    size: int
    inner: int
    start: int
    stop: int
    counts: bool = True

    @property
    def whole(self) -> int:
        """Entries of the whole tensor."""
        return self.outer * self.size * self.inner

    @property
    def here(self) -> int:
        """Entries of it that are here."""
        return self.outer * (self.stop - self.start) * self.inner

    def runs(self) -> Iterator[tuple[int, int]]:
        """Give begin and end of each stretch of the whole tensor that is here."""
        if self.stop > self.start:
            for row in range(0, self.whole, max(self.size * self.inner, 1)):
                yield row + self.start * self.inner, row + self.stop * self.inner


class ShardedSpace(FlatSpace):
    """Blocks ``(k, m)`` of which each process holds m of the n columns.

    Args:
        pieces: this process's, in the order of the tensors.
        groups: over which inner products are summed, one after another.
        on_host: as for :class:`FlatSpace`.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        groups: Sequence[dist.ProcessGroup],
        *,
        on_host: bool = False,
    ) -> None:
        super().__init__(on_host=on_host)
        self.pieces, self.groups = tuple(pieces), tuple(groups)
        self._counted: list[tuple[int, int]] = []  # stretches of local columns
        end = 0
        for piece in self.pieces:
            if piece.counts and self._counted and self._counted[-1][1] == end:
                self._counted[-1] = self._counted[-1][0], end + piece.here
            elif piece.counts:
                self._counted.append((end, end + piece.here))
            end += piece.here

    def holds(self, other: FlatSpace) -> bool:
        """Tell whether this process has the same pieces of them."""
        return isinstance(other, ShardedSpace) and other.pieces == self.pieces

    def size(self, block: Tensor) -> int:
        """Tell the dimension n, of all shards together."""
        del block
        return sum(piece.whole for piece in self.pieces)

    def fill(self, row: Tensor, draw: Draw, generator: torch.Generator) -> None:
        """Draw the vector a chunk at a time, as one process would, and keep what is here."""
        self._wanted = 0
        chunks = self._drawn(draw, generator)
        at, drawn, target = 0, torch.empty(0), 0
        for begin, end in self._runs():
            self._wanted = begin
            while self._wanted < end:
                while self._wanted >= at + len(drawn):
                    at, drawn = next(chunks)
                upto = min(end, at + len(drawn))
                kept = drawn[self._wanted - at : upto - at]
                row[..., target : target + len(kept)] = kept.to(row)
                target, self._wanted = target + len(kept), upto
        self._wanted = sys.maxsize
        for _ in chunks:  # to the end, where the next draw from this generator begins
            pass

    def largest(self, block: Tensor) -> float:
        """Tell the largest magnitude of all shards; 0 of no rows."""
        found = block.new_tensor(super().largest(block))
        for group in self.groups:
            dist.all_reduce(found, dist.ReduceOp.MAX, group=group)
        return float(found)

    def equal(self, left: Tensor, right: Tensor) -> bool:
        """Tell whether all shards are: the processes must agree."""
        if left.shape[0] != right.shape[0] or left.dtype != right.dtype:
            return False
        differ = torch.tensor(float(not torch.equal(left, right)), device=left.device)
        return not bool(self.summed(differ))

    def columns(self, block: Tensor, at: slice | None = None) -> Iterator[slice]:
        """Cut the columns that inner products run over: those that count here."""
        first, last, _ = (at or slice(None)).indices(block.shape[-1])
        for start, stop in self._counted:
            within = slice(max(start, first), max(min(stop, last), first))
            if within.start < within.stop:
                yield from super().columns(block, within)

    def summed(self, total: Tensor) -> Tensor:
        """Add up the processes' sums."""
        for group in self.groups:
            dist.all_reduce(total, group=group)
        return total

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Give the stretches of the whole vector that are here, in order."""
        offset = 0
        for piece in self.pieces:
            for begin, end in piece.runs():
                yield offset + begin, offset + end
            offset += piece.whole

    def _drawn(self, draw: Draw, generator: torch.Generator) -> Iterator[tuple[int, Tensor]]:
        """Draw the vector from the entry wanted on; gives where a chunk begins, and the chunk."""
        end = 0
        for count, stretch in stretches(self.size(torch.empty(0)), generator):
            start, end = end, end + count
            while start < end and self._wanted < end:
                size = CHUNK if end - start >= CHUNK + _LEAST else end - start
                yield start, draw(size, stretch)
                start += size
