"""Activations by name: one table, from which networks, recipes and commands choose."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag.errors import InputError, unknown
from hessdiag.nets import curves
from hessdiag.nets.curves import Curve
from hessdiag.nets.surrogates import surrogate


class Activation(nn.Module):
    """An activation that torch has no module for.

    Args:
        name: its name in the table.
        function: φ, elementwise, never in place.
        beta: its β, or None.
    """

    def __init__(
        self, name: str, function: Callable[[Tensor], Tensor], beta: float | None = None
    ) -> None:
        super().__init__()
        self.name, self.beta, self._function = name, beta, function

    def forward(self, x: Tensor) -> Tensor:
        """Apply φ elementwise to ``x`` of any shape."""
        return self._function(x)

    def extra_repr(self) -> str:
        """Show name and β in the module's description."""
        return self.name if self.beta is None else f"{self.name}, beta={self.beta:g}"


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    Attributes:
        module: makes the module, from β if the activation takes one, else from nothing.
        curve: makes its closed forms, likewise.
        takes_beta: whether it takes a β.
        default_beta: the β taken where none is given; None if one must be.
    """

    module: Callable[..., nn.Module]
    curve: Callable[..., Curve]
    takes_beta: bool = False
    default_beta: float | None = None


def beta_gelu(beta: float) -> Activation:
    """β-GELU, φ(x) = x Φ(βx): GELU at β = 1, ReLU as β → ∞.

    Computed as GELU(βx)/β, so that every derivative, in reverse and forward mode, is that of
    torch's own GELU.

    Source: Dauphin, Agarwala and Mobahi (2024), eq. 13.
    """
    return Activation("beta_gelu", lambda x: F.gelu(beta * x) / beta, beta)


def swish(beta: float) -> Activation:
    """Swish, φ(x) = x σ(βx): SiLU at β = 1, ReLU as β → ∞."""
    return Activation("swish", lambda x: F.silu(beta * x) / beta, beta)


def augmented_relu(beta: float) -> Activation:
    """ReLU whose second derivative is a Gaussian bump of width 1/β."""
    curve = curves.augmented_relu(beta)
    return Activation("augmented_relu", lambda x: surrogate(x, curve), beta)


def diminished_gelu() -> Activation:
    """GELU whose second derivative is zero."""
    return Activation("diminished_gelu", lambda x: surrogate(x, curves.DIMINISHED_GELU))


def squared_relu() -> Activation:
    """Squared ReLU, φ(x) = max(x, 0)²."""
    return Activation("squared_relu", lambda x: F.relu(x).square())


ACTIVATIONS: dict[str, Entry] = {
    "relu": Entry(nn.ReLU, lambda: curves.RELU),
    "leaky_relu": Entry(nn.LeakyReLU, curves.leaky_relu),
    "squared_relu": Entry(squared_relu, lambda: curves.SQUARED_RELU),
    "gelu": Entry(nn.GELU, lambda: curves.GELU),
    "gelu_tanh": Entry(lambda: nn.GELU(approximate="tanh"), lambda: curves.GELU_TANH),
    "beta_gelu": Entry(beta_gelu, curves.GELU.sharpened, takes_beta=True),
    "silu": Entry(nn.SiLU, lambda: curves.SILU),
    "swish": Entry(swish, curves.SILU.sharpened, takes_beta=True),
    "softplus": Entry(nn.Softplus, curves.SOFTPLUS.sharpened, takes_beta=True, default_beta=1.0),
    "tanh": Entry(nn.Tanh, lambda: curves.TANH),
    "sigmoid": Entry(nn.Sigmoid, lambda: curves.SIGMOID),
    "elu": Entry(nn.ELU, curves.elu),
    "celu": Entry(nn.CELU, curves.elu),  # α = 1, where the two are one
    "selu": Entry(nn.SELU, lambda: curves.SELU),
    "mish": Entry(nn.Mish, lambda: curves.MISH),
    "augmented_relu": Entry(
        augmented_relu, curves.augmented_relu, takes_beta=True, default_beta=1.0
    ),
    "diminished_gelu": Entry(diminished_gelu, lambda: curves.DIMINISHED_GELU),
}
NAMES = tuple(ACTIVATIONS)


def make(name: str, beta: float | None = None) -> nn.Module:
    """Make the activation ``name``; it never works in place.

    Args:
        name: one of ``NAMES``.
        beta: β > 0, for those that take one; None for their default, if they have one.

    Returns:
        A new module without parameters.

    Raises:
        InputError: the name is unknown, or β is missing, out of range or not wanted.
    """
    beta = settle_beta(name, beta)
    return ACTIVATIONS[name].module(*() if beta is None else (beta,))


def curve(name: str, beta: float | None = None) -> Curve:
    """Give φ, φ' and φ'' of the activation ``name`` in closed form.

    Raises:
        InputError: as ``make``.
    """
    beta = settle_beta(name, beta)
    return ACTIVATIONS[name].curve(*() if beta is None else (beta,))


def label(name: str, beta: float | None) -> str:
    """Name an activation with its β, as in beta_gelu(50)."""
    return name if beta is None else f"{name}({beta:g})"


def settle_beta(name: str, beta: float | None) -> float | None:
    """Check β against the activation ``name``, and fill in its default.

    Raises:
        InputError: the name is unknown, or β is missing, out of range or not wanted.
    """
    if name not in ACTIVATIONS:
        raise unknown("activation", name, NAMES)
    entry = ACTIVATIONS[name]
    if not entry.takes_beta:
        if beta is not None:
            takers = [other for other, entry in ACTIVATIONS.items() if entry.takes_beta]
            raise InputError(
                f"the activation {name} takes no β",
                got=f"β = {beta}",
                hint=f"leave β out, or choose {' or '.join(takers)}",
            )
        return None
    beta = entry.default_beta if beta is None else beta
    if beta is None:
        raise InputError(f"the activation {name} needs a β", wanted="β > 0, such as 1 or 10")
    if not (isinstance(beta, (int, float)) and math.isfinite(beta) and beta > 0):
        raise InputError("β is out of range", got=beta, wanted="a finite number above 0")
    return float(beta)
