"""Probes of one example each, made of one probe by signs.

Any v_n with ``E v_n v_nᵀ = I`` have ``E (1/N) Σ_n v_nᵀ A_n v_n = tr A``, whatever their joint law;
the less they have in common, the smaller the variance. Signs ``v_n = V ∘ (r_n s_nᵀ)`` on the rows
and columns of each weight need no weights by example, as a layer makes ``r_n ∘ ((s_n ∘ x) ∗ V)`` of
them. Given the signs, each v_n is as random as V, and the sample is ``VᵀMV`` with a matrix
``M = (1/N) Σ_n D_n A_n D_n``, D_n = diag of the signs, whose trace is that of A. So all that holds
for quadratic forms of random signs holds for these, and the signs may be the same for all probes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hessdiag.linalg.space import signs
from hessdiag.linalg.vectors import Layout
from hessdiag.seeds import stream


class Signed:
    """The tangents of a parameter by example, ``V ∘ (r_n s_nᵀ)``; of a vector ``V ∘ r_n``.

    Attributes:
        v: V, ``(O, I, …)`` or ``(O,)``.
        rows: r, ``(N, O)``.
        columns: s, ``(N, I)``; None of a vector.
        is_shared: whether V itself was taken in place of the tangents, where these are not known.
    """

    def __init__(self, v: Tensor, rows: Tensor, columns: Tensor | None) -> None:
        self.v, self.rows, self.columns = v, rows, columns
        self.is_shared = False

    def shared(self) -> Tensor:
        """Give V up for all examples."""
        self.is_shared = True
        return self.v

    def of(self, n: int) -> Tensor:
        """Give the tangent of one example."""
        v = self.v * self.rows[n].view(-1, *(1,) * (self.v.ndim - 1))
        return v if self.columns is None else v * self.columns[n].view(-1, *(1,) * (v.ndim - 2))

    def times(self, layer: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
        """Compute ``r_n ∘ ((s_n ∘ x) ∗ V)``.

        Args:
            layer: a linear layer or a convolution, of its input and its weight.
            x: the input, ``(N, …)``.
        """
        if self.columns is None or len(x) != len(self.rows) or x.ndim < 2:
            return layer(x, self.shared())
        columns, at = self.columns, 1 if self.v.ndim > 2 else -1
        if at == 1:
            columns = columns.repeat(1, x.shape[1] // columns.shape[1])  # of each group
        y = layer(x * _placed(columns, x.ndim, at), self.v)
        return y.mul_(_placed(self.rows, y.ndim, at))

    def beside(self, x: Tensor, at: int = -1) -> Tensor:
        """Lay the tangents of a vector out to act on x ``(N, …)`` along its dimension ``at``."""
        if self.columns is None and len(x) == len(self.rows) and at % x.ndim > 0:
            return _placed(self.v * self.rows, x.ndim, at)
        return self.shared() if at == -1 else self.shared().view(-1, *(1,) * (-1 - at))


class ExampleSigns:
    """Signs of rows and columns, for each example by itself.

    Those of example n depend on the seed and on n alone, not on its microbatch or on the probe.

    Args:
        layout: of the parameters.
        seed: of all signs.
        shared: indices of the parameters that all examples have V of.
    """

    def __init__(self, layout: Layout, seed: int, shared: frozenset[int] = frozenset()) -> None:
        self.layout, self.seed, self.shared = layout, seed, shared
        self._sizes = [tuple(shape[:2]) for shape in layout.shapes]

    def without(self, shared: frozenset[int]) -> ExampleSigns:
        """Give the same signs but for further parameters."""
        return ExampleSigns(self.layout, self.seed, self.shared | shared)

    def draw(self, numbers: Sequence[int], like: Tensor) -> Tensor:
        """Draw the signs of examples, one row each."""
        total = sum(map(sum, self._sizes))
        rows = torch.empty(len(numbers), total, dtype=torch.int8)
        for row, number in zip(rows, numbers, strict=True):
            generator = torch.Generator().manual_seed(stream(self.seed, "signs", number))
            row.copy_(signs(total, generator))
        return rows.to(like)

    def tangents(self, v: Sequence[Tensor], drawn: Tensor) -> list[Tensor | Signed]:
        """Give each parameter's tangents, V itself to those that are shared."""
        tangents: list[Tensor | Signed] = []
        start = 0
        for index, (tensor, sizes) in enumerate(zip(v, self._sizes, strict=True)):
            parts = drawn[:, start : start + sum(sizes)].split(sizes, 1)
            start += sum(sizes)
            if not sizes or index in self.shared:
                tangents.append(tensor)
            else:
                tangents.append(Signed(tensor, parts[0], parts[1] if len(parts) > 1 else None))
        return tangents


def _placed(signs: Tensor, num_dims: int, at: int) -> Tensor:
    """View ``(N, C)`` so that it acts on ``(N, …)`` along the dimension ``at``."""
    shape = [len(signs)] + [1] * (num_dims - 1)
    shape[at] = signs.shape[1]
    return signs.view(shape)
