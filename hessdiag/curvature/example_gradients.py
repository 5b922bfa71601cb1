"""Gradients of each example in a parameter, and their squared norms without making them.

With a layer's inputs x_t and the gradients g_t at its outputs, an example's gradient in the weight
is ``Σ_t g_t x_tᵀ``, whose squared norm is ``Σ ⟨x_t, x_s⟩⟨g_t, g_s⟩``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_AT_ONCE = 1 << 24  # numbers of the gradients by example that are made at once

FIRST, SECOND, REPEATED, OF_NONE = "first", "second", "repeated", "of none"
"""Where a tensor has its examples: first, second, first and several times on end, nowhere."""


def place_of(tensor: Tensor, count: int) -> str:
    """Find where a tensor has its N examples, by its shape."""
    if tensor.ndim > 0 and len(tensor) == count:
        return FIRST
    if tensor.ndim > 2 and tensor.shape[1] == count:
        return SECOND
    return REPEATED if tensor.ndim > 1 and len(tensor) % count == 0 and len(tensor) else OF_NONE


def by_example(tensor: Tensor, place: str, count: int) -> Tensor:
    """Put the examples first, ``(N, …)``."""
    if place == SECOND:
        return tensor.transpose(0, 1)
    return tensor if place == FIRST else tensor.unflatten(0, (count, -1))


@dataclass(frozen=True)
class Factors:
    """A gradient ``Σ_t a_t b_tᵀ`` of each example.

    Attributes:
        a: ``(N, t, o)``, or the places of ones in it, ``(N, t)``.
        b: ``(N, t, i)``, or what ``unfold`` makes that of.
        shape: of the parameter.
        unfold: applied to a few examples of b; None for none.
    """

    a: Tensor
    b: Tensor
    shape: torch.Size
    unfold: Callable[[Tensor], Tensor] | None = None

    def some(self, at: slice) -> Factors:
        """Take a few examples, unfolded."""
        b = self.b[at] if self.unfold is None else self.unfold(self.b[at])
        return Factors(self.a[at], b, self.shape)

    def dense(self) -> Tensor:
        """Make the gradients, ``(N, o, i)``."""
        if self.unfold is not None:
            return self.some(slice(None)).dense()
        if self.a.is_floating_point():
            return self.a.mT @ self.b
        made = self.b.new_zeros(len(self.b), self.shape[0], self.b.shape[2])
        return made.scatter_add_(1, self.a[..., None].expand_as(self.b), self.b)

    def inner(self, other: Factors) -> Tensor:
        """Compute the inner products with other gradients without making either, ``(N,)``."""
        return (_gram(self.a, other.a, self.b) * (self.b @ other.b.mT)).sum((1, 2))

    @property
    def num_numbers(self) -> tuple[int, int, int]:
        """T, o + i and o i."""
        rows, columns = self.shape[0], math.prod(self.shape[1:])
        return self.a.shape[1], rows + columns, rows * columns


def _gram(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """Compute ⟨a_t, b_s⟩ where either may be places of ones."""
    if not (a.is_floating_point() or b.is_floating_point()):
        return (a[:, :, None] == b[:, None, :]).to(like.dtype)
    if not a.is_floating_point():
        return _gram(b, a, like).mT
    if not b.is_floating_point():
        return a.gather(2, b[:, None, :].expand(-1, a.shape[1], -1))
    return a @ b.mT


def dense(part: Factors | Tensor) -> Tensor:
    """Make gradients, ``(N, …)``."""
    return part.dense() if isinstance(part, Factors) else part


def squared_norms(parts: Sequence[Factors | Tensor]) -> Tensor:
    """Sum gradients in one parameter, of each example by itself, and square their norms."""
    factors = [part for part in parts if isinstance(part, Factors)]
    if len(factors) < len(parts):
        return torch.stack([dense(part).flatten(1) for part in parts]).sum(0).square().sum(1)
    total = sum(part.num_numbers[0] for part in factors)
    _, both, area = factors[0].num_numbers
    step = max(1, _AT_ONCE // max(min(area, total * both), 1))
    found: list[Tensor] = []
    for start in range(0, len(factors[0].a), step):
        few = [part.some(slice(start, start + step)) for part in factors]
        if total * both < area:
            pairs = [one.inner(other) for one in few for other in few]
            found.append(torch.stack(pairs).sum(0))
        else:
            made = torch.stack([part.dense() for part in few]).sum(0)
            found.append(made.square().sum((1, 2)))
    return torch.cat(found)
