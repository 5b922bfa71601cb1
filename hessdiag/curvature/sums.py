"""Sums over the examples of the products that are asked for in one pass."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from hessdiag.curvature.linearisation import Linearisation
from hessdiag.linalg.driver import Answer, Request
from hessdiag.linalg.vectors import Layout


class Sums:
    """Sums over the examples of the products that one request asks for."""

    def __init__(self, request: Request) -> None:
        self.vectors, self.parts = request.vectors, request.parts

    @cached_property
    def rows(self) -> dict[str, Tensor]:
        """The sums by part; H alone is one, beside both of its parts it is theirs at the end."""
        derived = self.parts >= {"gn", "nme"}
        return {
            part: torch.zeros_like(self.vectors)
            for part in sorted(self.parts)  # the same order in all processes
            if not (derived and part == "hessian")
        }

    def add(self, local: Linearisation, layout: Layout) -> None:
        """Add the products of one microbatch."""
        gn, nme = not self.parts.isdisjoint({"hessian", "gn"}), self.parts != {"gn"}
        for index, vector in enumerate(self.vectors):
            v = layout.unflatten(vector)
            if self.parts == {"hessian"}:
                found = {"hessian": (local.hessian(v),)}
            else:
                g, n = local.products(v, gn=gn, nme=nme)
                found = {"gn": (g,), "nme": (n,), "hessian": (g, n)}
            for part, rows in self.rows.items():
                for tensors in filter(None, found[part]):
                    for target, tensor in zip(layout.unflatten(rows[index]), tensors, strict=True):
                        target += tensor

    def finish(self, weight: float) -> Answer:
        """Turn the sums into means."""
        for rows in self.rows.values():
            rows /= weight
        if "hessian" in self.parts and "hessian" not in self.rows:
            self.rows["hessian"] = self.rows["gn"] + self.rows["nme"]
        return self.rows
