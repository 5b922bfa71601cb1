"""Activations by name: one table, from which networks, recipes and commands choose."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag.errors import InputError, unknown


class BetaGELU(nn.Module):
    """β-GELU, φ(x) = x Φ(βx), with Φ the standard normal distribution function.

    β = 1 is GELU; β → ∞ tends to ReLU. Computed as GELU(βx)/β, so that every derivative, in reverse
    and forward mode, is that of torch's own GELU.

    Args:
        beta: sharpness β > 0 of the kink.
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = float(beta)

    def forward(self, x: Tensor) -> Tensor:
        """Apply φ elementwise to ``x`` of any shape."""
        return F.gelu(self.beta * x) / self.beta

    def extra_repr(self) -> str:
        """Show β in the module's description."""
        return f"beta={self.beta:g}"


@dataclass(frozen=True)
class Activation:
    """One entry of the table.

    Attributes:
        module: makes the module, from β if the activation takes one, else from nothing.
        takes_beta: whether β is needed.
    """

    module: Callable[..., nn.Module]
    takes_beta: bool = False


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(nn.ReLU),
    "leaky_relu": Activation(nn.LeakyReLU),
    "gelu": Activation(nn.GELU),
    "gelu_tanh": Activation(lambda: nn.GELU(approximate="tanh")),
    "beta_gelu": Activation(BetaGELU, takes_beta=True),
    "silu": Activation(nn.SiLU),
    "softplus": Activation(nn.Softplus),
    "tanh": Activation(nn.Tanh),
    "sigmoid": Activation(nn.Sigmoid),
    "elu": Activation(nn.ELU),
    "mish": Activation(nn.Mish),
}
NAMES = tuple(ACTIVATIONS)


def make(name: str, beta: float | None = None) -> nn.Module:
    """Make the activation ``name``; it never works in place.

    Args:
        name: one of ``NAMES``.
        beta: β, finite and positive, for ``beta_gelu`` and for no other.

    Returns:
        A new module without parameters.

    Raises:
        InputError: the name is unknown, or β is missing, out of range or not wanted.
    """
    if name not in ACTIVATIONS:
        raise unknown("activation", name, NAMES)
    activation = ACTIVATIONS[name]
    if not activation.takes_beta:
        if beta is not None:
            takers = [other for other, entry in ACTIVATIONS.items() if entry.takes_beta]
            raise InputError(
                f"the activation {name} takes no β",
                got=f"β = {beta}",
                hint=f"leave β out, or choose {' or '.join(takers)}",
            )
        return activation.module()
    if beta is None:
        raise InputError(f"the activation {name} needs a β", wanted="β > 0, such as 1 (GELU) or 10")
    if not (math.isfinite(beta) and beta > 0):
        raise InputError("β is out of range", got=beta, wanted="a finite number above 0")
    return activation.module(beta)
