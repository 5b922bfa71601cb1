"""The mean squared error."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hessdiag.losses.pointwise import Pointwise


class MeanSquaredError(Pointwise):
    """``torch.nn.MSELoss``: mean over examples and outputs; ``f = (z − y)²``."""

    name = "mse"
    torch_loss = nn.MSELoss
    torch_function = F.mse_loss

    def value(self, z: Tensor, y: Tensor) -> Tensor:
        """Compute (z − y)²."""
        return (z - y).square()

    def slope(self, z: Tensor, y: Tensor) -> Tensor:
        """Compute 2 (z − y)."""
        return 2 * (z - y)

    def curvature(self, z: Tensor, y: Tensor) -> Tensor:
        """2."""
        del y
        return torch.full_like(z, 2)


LOSS = MeanSquaredError
