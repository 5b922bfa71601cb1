"""Sharpness as others measure it: what a step up the loss costs, at a radius of one's choice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.perturbation import mean_loss
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.errors import InputError, NotFinite

RHO, ADAPTIVE_RHO = 0.05, 0.5
_TINY = 1e-12
_ETA = 0.01  # keeps an adaptive step from vanishing with its weight
_HALVINGS, _DOUBLINGS = 24, 60


@dataclass(frozen=True)
class Sharpness:
    """Three measures at one point.

    Attributes:
        sam: L(θ + ρ ĝ) − L(θ).
        adaptive: the same for the step of ASAM.
        critical: 2/η of the smallest step η along −∇L that does not lower the loss; None where no
            step raises it.
    """

    sam: float
    adaptive: float
    critical: float | None


def sharpness(
    decomposition: Decomposition, *, rho: float = RHO, adaptive_rho: float = ADAPTIVE_RHO
) -> Sharpness:
    """Measure all three.

    Cost: one gradient, and some thirty forward passes over the data.

    Args:
        decomposition: of network, data and loss.
        rho: radius of SAM's step.
        adaptive_rho: of ASAM's.

    Raises:
        InputError: a radius that is not above 0.
        NotFinite: a loss.

    Source: Foret et al. (2021), eq. 1 to first order; Kwon et al. (2021), eq. 4; Kalra and
        Barkeshli (2024) for the critical step.
    """
    for name, value in (("rho", rho), ("adaptive_rho", adaptive_rho)):
        if not value > 0:
            raise InputError(f"`{name}` is out of range", got=value, wanted="above 0")
    risk, gradient = decomposition.risk, decomposition.gradient()
    g = gradient.vector
    return Sharpness(
        sam=_rise(risk, rho * g / (risk.space.norm(g) + _TINY), gradient.loss),
        adaptive=_rise(risk, _adaptive_step(risk, g, adaptive_rho), gradient.loss),
        critical=critical_sharpness(risk, g),
    )


def _adaptive_step(risk: EmpiricalRisk, g: Tensor, rho: float) -> Tensor:
    """Compute ρ T² g/‖T g‖, T = |θ| + 0.01 for weights and 1 for biases and scales."""
    scales = [
        tensor.detach().abs() + _ETA if tensor.ndim > 1 else torch.ones_like(tensor)
        for tensor in risk.parameters.values()
    ]
    t = risk.layout.flatten(scales)
    return rho * t.square() * g / (risk.space.norm(t * g) + _TINY)


def critical_sharpness(risk: EmpiricalRisk, update: Tensor) -> float | None:
    """Compute λ_c = 2/η_c, where η_c is the smallest η > 0 with L(θ − η u) ≥ L(θ).

    For a quadratic risk and u = ∇L it is ĝᵀHĝ. Forward passes alone: η is doubled until the loss is
    no lower, then the interval is halved.

    Args:
        risk: network, data and loss.
        update: u, flat ``(n,)``: the gradient, or what an optimizer makes of it.

    Returns:
        None where u is zero, or no step as large as 2⁶⁰ times the first raises the loss.
    """
    size = risk.space.norm(update)
    if size == 0:
        return None
    start = mean_loss(risk)

    def lowers(eta: float) -> bool:
        return mean_loss(risk.displaced(-eta * update)) < start  # NaN is no lower

    high = 1e-6 / max(size, 1.0)
    for _ in range(_DOUBLINGS):
        if not lowers(high):
            break
        high *= 2
    else:
        return None
    low = high / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if lowers(middle) else (low, middle)
    return 4 / (low + high)


def _rise(risk: EmpiricalRisk, step: Tensor, start: float) -> float:
    loss = mean_loss(risk.displaced(step))
    if not math.isfinite(loss):
        raise NotFinite("the loss is not finite at the displaced weights", got=loss)
    return loss - start
