"""Flat vectors: the one class that knows where each parameter lies in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_STRETCH = 1 << 22  # entries that are widened at once


def all_finite(tensor: Tensor) -> bool:
    """Tell whether no entry is NaN or Inf, in one pass over memory: either would reach the sum."""
    stretches = tensor.reshape(-1).split(_STRETCH)
    return all(math.isfinite(float(part.sum(dtype=torch.float64))) for part in stretches)


@dataclass(frozen=True)
class Layout:
    """Offsets of named tensors in a flat vector ``(n,)``.

    Attributes:
        names: the tensors' names, in order.
        shapes: their shapes.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layout:
        """Lay ``tensors`` out one after another."""
        return cls(tuple(tensors), tuple(tensor.shape for tensor in tensors.values()))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each tensor."""
        return tuple(shape.numel() for shape in self.shapes)

    @cached_property
    def size(self) -> int:
        """Length n of the flat vector."""
        return sum(self.sizes)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each tensor lies."""
        slices: dict[str, slice] = {}
        start = 0
        for name, size in zip(self.names, self.sizes, strict=True):
            slices[name] = slice(start, start + size)
            start += size
        return slices

    def flatten(self, tensors: Sequence[Tensor]) -> Tensor:
        """Concatenate tensors of these shapes into ``(n,)``."""
        return torch.cat([tensor.reshape(-1) for tensor in tensors])

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """View a flat vector ``(n,)`` as tensors of these shapes; nothing is copied."""
        parts = vector.split(self.sizes)
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
