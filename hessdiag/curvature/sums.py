"""Sums over the examples of the products that are asked for in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from hessdiag.curvature.linearisation import Linearisation
from hessdiag.linalg.driver import Answer, Request
from hessdiag.linalg.vectors import Layout


class Sums:
    """Sums over the examples of the products that one request asks for."""

    def __init__(self, request: Request) -> None:
        self.vectors, self.parts = request.vectors, request.parts
        derived = self.parts >= {"gn", "nme"}  # H alone is a sum, beside both of its parts theirs
        self._summed = self.parts - {"hessian"} if derived else self.parts
        self._rows: dict[str, Tensor] = {}

    @property
    def rows(self) -> dict[str, Tensor]:
        """The sums by part, in the same order in all processes."""
        return {part: self._row(part) for part in sorted(self._summed)}

    def _row(self, part: str) -> Tensor:
        """Make it when it is first needed."""
        if part not in self._rows:
            self._rows[part] = torch.zeros_like(self.vectors)
        return self._rows[part]

    def add(self, local: Linearisation, layout: Layout) -> None:
        """Add the products of one microbatch."""
        gn, nme = not self.parts.isdisjoint({"hessian", "gn"}), self.parts != {"gn"}
        for index, vector in enumerate(self.vectors):
            v = layout.unflatten(vector)
            if self.parts == {"hessian"}:
                self._take("hessian", index, local.hessian(v), layout)
                continue
            for part, tensors in local.one_by_one(v, gn=gn, nme=nme):
                self._take(part, index, tensors, layout)
                del tensors

    def _take(self, part: str, index: int, tensors: list[Tensor], layout: Layout) -> None:
        for name in self._summed.intersection({part, "hessian"}):
            row = layout.unflatten(self._row(name)[index])
            for target, tensor in zip(row, tensors, strict=True):
                target += tensor

    def finish(self, weight: float) -> Answer:
        """Turn the sums into means."""
        means = self.rows
        for rows in means.values():
            rows /= weight
        if "hessian" in self.parts - self._summed:
            means["hessian"] = means["gn"] + means["nme"]
        return means
