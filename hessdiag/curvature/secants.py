"""Curvature at a finite radius, which sees the kinks that the pointwise Hessian cannot."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.errors import InputError, NotFinite
from hessdiag.linalg.trace import Array, Probes


def secant_curvatures(
    decomposition: Decomposition,
    probes: Probes,
    num_probes: int,
    radius: float,
    *,
    on_pass: Callable[[], None] | None = None,
) -> Array:
    """Compute ``vᵀ[g(θ + rv) − g(θ − rv)]/(2r)`` for the first ``num_probes`` probes v.

    Its mean over the probes tends to tr H as r → 0 where the gradient g is smooth. A ReLU network's
    gradient jumps at kinks; those within the radius add to this curvature, and to no pointwise one.
    With entries of v of ±1, r is the step of each weight. In float32 a small r drowns in rounding.

    Cost: two gradients a probe.

    Args:
        decomposition: of the risk.
        probes: the sequence.
        num_probes: how many of them.
        radius: r > 0, in units of the weights.
        on_pass: called after each pass over the data.

    Returns:
        ``(num_probes,)``.

    Raises:
        InputError: loss or gradient are not finite so far from θ.
    """
    values = torch.empty(num_probes, dtype=torch.float64)
    for index in range(num_probes):
        v = probes.rows(index, index + 1)[0]
        gradients: list[torch.Tensor] = []
        for sign in (1, -1):
            try:
                gradients.append(decomposition.displaced(sign * radius * v).gradient().vector)
            except NotFinite as error:
                raise InputError(
                    "the network cannot be evaluated at this radius",
                    got=f"r = {radius:g}: {error.what}",
                    hint="try a smaller --finite-radius",
                ) from error
            if on_pass is not None:
                on_pass()
        difference = gradients[0].double() - gradients[1].double()
        product = decomposition.space.dots(v[None], difference[None])
        values[index] = float(product[0]) / (2 * radius)
    return values.numpy()


def secant_rounding(decomposition: Decomposition, trace: float, radius: float) -> float:
    """Estimate the error that rounding makes in the mean of :func:`secant_curvatures`.

    Two parts: that of the gradients, ``10 ε ‖g‖/r`` with ε of the dtype, the ten for what adds up
    within a network; and that of the displaced weights, a share ``ε rms(θ)/r`` of the trace.
    """
    epsilon = torch.finfo(decomposition.risk.dtype).eps
    space = decomposition.space
    norm = space.norm(decomposition.gradient().vector)
    weights = decomposition.layout.flatten(list(decomposition.risk.parameters.values())).detach()
    rms = space.norm(weights) / space.size(weights) ** 0.5
    return epsilon * (10 * norm + rms * abs(trace)) / radius
