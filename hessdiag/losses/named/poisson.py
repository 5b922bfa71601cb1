"""The Poisson likelihood of counts, whose logarithmic rates are the outputs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hessdiag.errors import InputError
from hessdiag.losses.pointwise import Pointwise


class Poisson(Pointwise):
    """``torch.nn.PoissonNLLLoss``: ``f = eᶻ − y z`` for counts y."""

    name = "poisson"
    torch_loss = nn.PoissonNLLLoss
    torch_function = F.poisson_nll_loss

    @classmethod
    def of_module(cls, module: nn.PoissonNLLLoss) -> Poisson | None:
        """Read torch's module of logarithmic rates without Stirling's term."""
        return cls() if module.log_input and not module.full else None

    def check_targets(self, y: Tensor) -> None:
        """Refuse what is no count."""
        if bool((y < 0).any()):
            raise InputError(
                "a count is negative", got=float(y.min()), wanted="targets of 0 or more"
            )

    def value(self, z: Tensor, y: Tensor) -> Tensor:
        """Compute eᶻ − y z."""
        return z.exp() - y * z

    def slope(self, z: Tensor, y: Tensor) -> Tensor:
        """Compute eᶻ − y."""
        return z.exp() - y

    def curvature(self, z: Tensor, y: Tensor) -> Tensor:
        """Compute eᶻ."""
        del y
        return z.exp()


LOSS = Poisson
