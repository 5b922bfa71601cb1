"""H v by differentiating the loss itself twice, with none of the linearisation's code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hessdiag.curvature.linearisation import Linearisation
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.losses.output_loss import Targets


def direct_product(
    risk: EmpiricalRisk, x: Any, y: Tensor | Targets, v: list[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Compute z, ∇L and H v of the summed loss of one microbatch.

    Cost: about three gradients, and the memory of three vectors beside θ.

    Args:
        risk: the network and its loss.
        x: inputs.
        y: targets.
        v: one tensor per parameter.
    """
    parameters = list(risk.parameters.values())
    z = risk.outputs(x)
    total = risk.loss.at(z, y).total
    gradient = torch.autograd.grad(total, parameters, create_graph=True, materialize_grads=True)
    # ⟨∇L, v⟩ has the gradient H v; parameters that are not used have no part in it
    used = [i for i, tensor in enumerate(gradient) if tensor.requires_grad]
    product = torch.autograd.grad(
        [gradient[i] for i in used], parameters, [v[i] for i in used], materialize_grads=True
    )
    return z.detach(), [tensor.detach() for tensor in gradient], list(product)


def residual(risk: EmpiricalRisk, x: Any, y: Tensor | Targets, v: Tensor) -> float:
    """Compute ‖H v − (G v + N v)‖/‖H v‖ for one microbatch and a vector ``(n,)``."""
    parts = risk.layout.unflatten(v)
    gn, nme = Linearisation(risk, x, y).products(parts, gn=True, nme=True)
    _, _, hessian = direct_product(risk, x, y, parts)
    assert gn is not None
    assert nme is not None
    difference = risk.layout.flatten(hessian)
    scale = risk.space.norm(difference)
    for rest, *both in zip(risk.layout.unflatten(difference), gn, nme, strict=True):
        for tensor in both:  # in place: these vectors may be large
            rest -= tensor
    size = risk.space.norm(difference)
    return size / scale if scale else size
