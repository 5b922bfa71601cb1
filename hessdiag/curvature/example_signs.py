"""Probes of one example each, made of one probe by signs.

Any v_n with ``E v_n v_nᵀ = I`` have ``E (1/N) Σ_n v_nᵀ A_n v_n = tr A``, whatever their joint law;
the less they have in common, the smaller the variance. Signs ``v_n = V ∘ (r_n s_nᵀ)`` on the rows
and columns of each weight need no weights by example, as a layer makes ``r_n ∘ ((s_n ∘ x) ∗ V)`` of
them. Given the signs, each v_n is as random as V, and the sample is ``VᵀMV`` with a matrix
``M = (1/N) Σ_n D_n A_n D_n``, D_n = diag of the signs, whose trace is that of A. So all that holds
for quadratic forms of random signs holds for these, and the signs may be the same for all probes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hessdiag.linalg.space import signs
from hessdiag.linalg.vectors import Layout
from hessdiag.seeds import stream

FIRST, SECOND, REPEATED = 0, 1, 2
"""Where the inputs of a layer have their examples: first, second, or first and each several times
on end, as ``(N t, …)`` has.
"""


class Signed:
    """The tangents of a parameter by example, ``V ∘ (r_n s_nᵀ)``; of a vector ``V ∘ r_n``.

    Attributes:
        v: V, ``(O, I, …)`` or ``(O,)``.
        rows: r, ``(N, O)``.
        columns: s, ``(N, I)``; None of a vector.
        place: where the inputs that V meets have their examples; None where they tell it
            themselves.
        seen: the places where they did.
        is_shared: whether V itself was taken in place of the tangents, where these are not known.
    """

    def __init__(
        self, v: Tensor, rows: Tensor, columns: Tensor | None, place: int | None = None
    ) -> None:
        self.v, self.rows, self.columns, self.place = v, rows, columns, place
        self.seen: set[int] = set()
        self.is_shared = False

    def shared(self) -> Tensor:
        """Give V up for all examples."""
        self.is_shared = True
        return self.v

    def of(self, n: int) -> Tensor:
        """Give the tangent of one example."""
        v = self.v * self.rows[n].view(-1, *(1,) * (self.v.ndim - 1))
        return v if self.columns is None else v * self.columns[n].view(-1, *(1,) * (v.ndim - 2))

    def times(
        self,
        layer: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        *,
        transposed: bool = False,
    ) -> Tensor:
        """Compute ``r_n ∘ ((s_n ∘ x) ∗ V)``; with the weight transposed, r and s change places.

        Args:
            layer: a linear layer or a convolution, of its input and its weight.
            x: the input, ``(N, …)`` or as :attr:`place` says.
            transposed: whether the weight has the inputs first.
        """
        is_kernel = self.v.ndim > 2
        place = None if self.columns is None else self._placed(x, 2, first=is_kernel)
        if place is None:
            return layer(x, self.shared())
        assert self.columns is not None
        into, out = (self.rows, self.columns) if transposed else (self.columns, self.rows)
        if is_kernel:
            into = into.repeat(1, x.shape[1] // into.shape[1])  # of each group
        at = 1 if is_kernel else -1
        y = layer(x * _laid(into, x, place, at), self.v)
        return y.mul_(_laid(out, y, place, at))

    def looked_up(self, look: Callable[[Tensor], Tensor], indices: Tensor) -> Tensor:
        """Look up the rows that indices ``(N, …)`` tell, those of each example."""
        place = None if self.columns is None else self._placed(indices, 1)
        if place is None:
            return look(self.shared())
        assert self.columns is not None
        own = indices.transpose(0, 1) if place == SECOND else indices
        rows = self.rows.repeat_interleave(len(own) // len(self.rows), 0)
        rows = rows.gather(1, own.reshape(len(own), -1)).view(own.shape)
        rows = rows.transpose(0, 1) if place == SECOND else rows
        found = look(self.v)
        return found * rows[..., None] * _laid(self.columns, found, place, -1)

    def beside(self, x: Tensor, at: int = -1) -> Tensor:
        """Lay the tangents of a vector out to act on x ``(N, …)`` along its dimension ``at``."""
        place = self._placed(x, 2) if self.columns is None else None
        if place is not None and at % x.ndim > place % REPEATED:
            return _laid(self.v * self.rows, x, place, at)
        return self.shared() if at == -1 else self.shared().view(-1, *(1,) * (-1 - at))

    def _placed(self, x: Tensor, num_dims: int, *, first: bool = False) -> int | None:
        """Find where x, of so many dimensions at least, has its examples; None if nowhere."""
        count = len(self.rows)
        if x.ndim < num_dims or not len(x):
            return None
        fits = {
            FIRST: len(x) == count,
            SECOND: x.ndim > num_dims and x.shape[1] == count and not first,
            REPEATED: len(x) % count == 0,
        }
        choices = fits if self.place is None else (self.place,)
        place = next((place for place in choices if fits[place]), None)
        if place is not None:
            self.seen.add(place)
        return place


class ExampleSigns:
    """Signs of rows and columns, for each example by itself.

    Those of example n depend on the seed and on n alone, not on its microbatch or on the probe.

    Args:
        layout: of the parameters.
        seed: of all signs.
        places: by the index of a parameter of which each example has tangents of its own, where
            the inputs that it meets have their examples; all others have V of all. None: all
            parameters, wherever.
    """

    def __init__(
        self, layout: Layout, seed: int, places: Mapping[int, int | None] | None = None
    ) -> None:
        self.layout, self.seed = layout, seed
        self.places = dict.fromkeys(range(len(layout.shapes))) if places is None else dict(places)
        self._sizes = [tuple(shape[:2]) for shape in layout.shapes]

    @property
    def shared(self) -> frozenset[int]:
        """Indices of the parameters that all examples have V of."""
        return frozenset(range(len(self._sizes))).difference(self.places)

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
            parts = list(drawn[:, start : start + sum(sizes)].split(sizes, 1))
            start += sum(sizes)
            if not sizes or index not in self.places:
                tangents.append(tensor)
                continue
            columns = parts[1] if len(parts) > 1 else None
            tangents.append(Signed(tensor, parts[0], columns, self.places[index]))
        return tangents


def _laid(signs: Tensor, x: Tensor, place: int, at: int) -> Tensor:
    """View ``(N, C)`` so that it acts on x, whose examples are at ``place``, along ``at``."""
    if place == REPEATED:
        signs = signs.repeat_interleave(len(x) // len(signs), 0)
    shape = [1] * x.ndim
    shape[place % REPEATED], shape[at] = len(signs), signs.shape[1]
    return signs.view(shape)
