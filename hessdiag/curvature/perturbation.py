"""The perturbation gap: how much noise in the weights raises the loss."""

from __future__ import annotations

import math

import torch

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

    Each sample is the mean of L at θ + ε and θ − ε less L(θ): the gradient, which would be most of
    the variance, cancels.

    Cost: two forward passes over the data a pair.

    Args:
        risk: network, data and loss.
        sigma2: σ² > 0.
        num_pairs: pairs of opposite perturbations.
        seed: of the perturbations.

    Raises:
        NotFinite: the loss is not finite so far from θ.

    Source: Zhang, Li and Ju (2024), eq. 1 and their figure on the gap.
    """
    generator = torch.Generator().manual_seed(stream(seed, "perturbation gap"))
    centre = mean_loss(risk)
    gaps = torch.empty(num_pairs, dtype=torch.float64)
    for index in range(num_pairs):
        noise = math.sqrt(sigma2) * torch.randn(risk.layout.size, generator=generator)
        around = [mean_loss(risk.displaced(sign * noise)) for sign in (1, -1)]
        gaps[index] = sum(around) / 2 - centre
    if not bool(gaps.isfinite().all()):
        raise NotFinite(
            "the loss is not finite at the perturbed weights",
            got=f"σ² = {sigma2:g}",
            hint="try a smaller σ²",
        )
    return estimate_mean(gaps.numpy()).bounded()


def mean_loss(risk: EmpiricalRisk) -> float:
    """Compute L by forward passes alone; it need not be finite."""
    sums = torch.zeros(2, dtype=torch.float64, device=risk.device)
    with exact_kernels(), torch.no_grad():
        for x, y in risk.microbatches(shared=True):
            at = risk.loss.at(risk.outputs(x), y)
            sums += sums.new_tensor([float(at.total), at.weight])
    processes.add_up(sums)
    return float(sums[0] / sums[1])
