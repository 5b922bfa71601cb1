"""The perturbation gap: how much noise in the weights raises the loss."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hessdiag.curvature.kernels import exact_kernels
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.errors import NotFinite
from hessdiag.linalg import processes
from hessdiag.linalg.trace import Estimate, estimate_mean
from hessdiag.seeds import stream


def perturbation_gap(
    risk: EmpiricalRisk, sigma2: float, *, num_pairs: int = 16, seed: int = 0
) -> Estimate:
    """Estimate ``E L(θ + ε) − L(θ)``, ε ~ N(0, σ² I), which is ``(σ²/2) tr H + O(σ⁴)``.

    It is the mean of :func:`gaps`, whose cost and arguments it has.

    Source: Zhang, Li and Ju (2024), eq. 1 and their figure on the gap.
    """
    found = gaps(risk, sigma2, num_pairs=num_pairs, seed=seed)
    return estimate_mean(np.array(found)).bounded()


def gaps(
    risk: EmpiricalRisk, sigma2: float, *, num_pairs: int = 16, seed: int = 0
) -> tuple[float, ...]:
    """Draw ``½[L(θ + ε) + L(θ − ε)] − L(θ)``, which is ``½ εᵀHε + O(σ⁴)``.

    By pairs the gradient, which would be most of the variance, cancels.

    Cost: two forward passes over the data a pair.

    Args:
        risk: network, data and loss.
        sigma2: σ² > 0.
        num_pairs: pairs of opposite perturbations.
        seed: of the perturbations.

    Raises:
        NotFinite: the loss is not finite so far from θ.
    """
    generator = torch.Generator().manual_seed(stream(seed, "perturbation gap"))
    centre = mean_loss(risk)
    found: list[float] = []
    for _ in range(num_pairs):
        noise = torch.empty(risk.layout.size)
        risk.space.fill(noise, _normal, generator)
        noise *= math.sqrt(sigma2)
        around = [mean_loss(risk.displaced(sign * noise)) for sign in (1, -1)]
        found.append(sum(around) / 2 - centre)
    if not all(map(math.isfinite, found)):
        raise NotFinite(
            "the loss is not finite at the perturbed weights",
            got=f"σ² = {sigma2:g}",
            hint="try a smaller σ²",
        )
    return tuple(found)


def mean_loss(risk: EmpiricalRisk) -> float:
    """Compute L by forward passes alone; it need not be finite."""
    sums = torch.zeros(2, dtype=torch.float64, device=risk.device)
    with exact_kernels(), torch.no_grad():
        for x, y, counts in risk.dealt():
            at = risk.loss.at(risk.outputs(x), y)
            if counts:
                sums += sums.new_tensor([float(at.total), at.weight])
    processes.add_up(sums)
    return float(sums[0] / sums[1])


def _normal(count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, generator=generator)
