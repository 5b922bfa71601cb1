"""The Huber loss: squares near the target, absolute values far from it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hessdiag.losses.pointwise import Pointwise


class Huber(Pointwise):
    """``torch.nn.HuberLoss``: ``f = r²/2`` for ``|r| ≤ δ``, else ``δ (|r| − δ/2)``, r = z − y.

    Args:
        delta: δ > 0.
    """

    name = "huber"
    torch_loss = nn.HuberLoss
    torch_function = F.huber_loss

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = delta

    @classmethod
    def of_module(cls, module: nn.HuberLoss) -> Huber:
        """Read torch's module."""
        return cls(module.delta)

    def value(self, z: Tensor, y: Tensor) -> Tensor:
        """Compute ρ (|r| − ρ/2) with ρ = min(|r|, δ)."""
        size = (z - y).abs()
        near = size.clamp(max=self.delta)
        return near * (size - near / 2)

    def slope(self, z: Tensor, y: Tensor) -> Tensor:
        """Compute r, at most δ in size."""
        return (z - y).clamp(-self.delta, self.delta)

    def curvature(self, z: Tensor, y: Tensor) -> Tensor:
        """1 for |r| ≤ δ, else 0."""
        return ((z - y).abs() <= self.delta).to(z.dtype)


LOSS = Huber
