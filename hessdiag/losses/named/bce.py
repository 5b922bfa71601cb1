"""Binary cross-entropy of logits, one or several labels an example."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hessdiag.errors import InputError
from hessdiag.losses.pointwise import Pointwise


class BinaryCrossEntropy(Pointwise):
    """``torch.nn.BCEWithLogitsLoss``: ``f = −w y log σ(z) − (1 − y) log σ(−z)``.

    σ(z) and 1 − σ(z) = σ(−z) are never had from one another, so that nothing cancels.

    Args:
        positive_weight: w, broadcast to the outputs of an example; None for 1.
    """

    name = "bce"
    torch_loss = nn.BCEWithLogitsLoss
    torch_function = F.binary_cross_entropy_with_logits

    def __init__(self, positive_weight: Tensor | None = None) -> None:
        self.positive_weight = positive_weight

    @classmethod
    def of_module(cls, module: nn.BCEWithLogitsLoss) -> BinaryCrossEntropy | None:
        """Read torch's module; not its ``weight``, which belongs to one batch."""
        return cls(module.pos_weight) if module.weight is None else None

    def check_targets(self, y: Tensor) -> None:
        """Refuse what is no probability."""
        if not bool(((y >= 0) & (y <= 1)).all()):
            raise InputError(
                "a target of the binary cross-entropy is no probability",
                got=f"targets from {float(y.min()):g} to {float(y.max()):g}",
                wanted="0 to 1",
            )

    def value(self, z: Tensor, y: Tensor) -> Tensor:
        """Compute w y log(1 + e⁻ᶻ) + (1 − y) log(1 + eᶻ)."""
        zero = torch.zeros_like(z)  # logaddexp's derivatives are exact where softplus' are not
        return self._positive(y) * torch.logaddexp(-z, zero) + (1 - y) * torch.logaddexp(z, zero)

    def slope(self, z: Tensor, y: Tensor) -> Tensor:
        """Compute (1 − y) σ(z) − w y σ(−z)."""
        return (1 - y) * z.sigmoid() - self._positive(y) * (-z).sigmoid()

    def curvature(self, z: Tensor, y: Tensor) -> Tensor:
        """Compute (1 − y + w y) σ(z) σ(−z)."""
        return (1 - y + self._positive(y)) * z.sigmoid() * (-z).sigmoid()

    def num_correct(self, z: Tensor, y: Tensor) -> int | None:
        """Count labels on the right side of 1/2; None where they are not 0 and 1."""
        if not bool(((y == 0) | (y == 1)).all()):
            return None
        return int(((z > 0) == (y > 0)).sum())

    def _positive(self, y: Tensor) -> Tensor:
        return y if self.positive_weight is None else y * self.positive_weight.to(y)


LOSS = BinaryCrossEntropy
