"""Linearisations kept from one pass over the data to the next."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hessdiag.curvature.batches import mapped, tensors_in
from hessdiag.curvature.linearisation import Linearisation
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.losses.output_loss import Targets


class Kept:
    """The linearisations of the first microbatches, for passes that find the same data there.

    A pass with one vector takes half the time when it need not linearise. What the data hold is
    compared nevertheless: data or weights that change are linearised anew, for others to refuse.

    Attributes:
        num_examples: how many examples' linearisations may be kept; 0 for none.
    """

    def __init__(self) -> None:
        self.num_examples = 0
        self._kept: list[tuple[Any, Tensor | Targets, Linearisation]] = []
        self._versions: list[int] = []

    def clear(self) -> None:
        """Let go of them."""
        self._kept.clear()

    def let_go(self) -> bool:
        """Let go of them for good; tells whether there was room for any."""
        had, self.num_examples = self.num_examples, 0
        self.clear()
        return had > 0

    def linearise(
        self, index: int, risk: EmpiricalRisk, x: Any, y: Tensor | Targets, counts: bool
    ) -> Linearisation:
        """Linearise microbatch ``index`` of a pass, or find it kept."""
        versions = [parameter._version for parameter in risk.parameters.values()]
        if versions != self._versions:
            self.clear()
            self._versions = versions
        if index < len(self._kept):
            old_x, old_y, local = self._kept[index]
            if _equal(x, old_x) and _equal(y, old_y):
                return local
            del self._kept[index:]
        room = self.num_examples - sum(len(y) for _, y, _ in self._kept)
        if index > len(self._kept) or len(y) > room or risk.sharding is not None:
            return Linearisation(risk, x, y, counts=counts)
        x, y = mapped(x, Tensor.clone), y.clone()  # whoever owns the data may write into them
        local = Linearisation(risk, x, y, counts=counts)
        self._kept.append((x, y, local))
        return local


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Targets) and isinstance(b, Targets):
        return _equal(a.values, b.values) and _equal(a.weights, b.weights)
    ours, others = tensors_in(a), tensors_in(b)
    return len(ours) == len(others) and all(map(torch.equal, ours, others))
