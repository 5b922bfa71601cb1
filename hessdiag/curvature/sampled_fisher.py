"""The Fisher matrix by labels that are drawn from the network, beside the G that it is equal to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.kernels import exact_kernels, undisturbed
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.errors import InputError
from hessdiag.linalg.trace import Estimate, Probes, estimate_mean
from hessdiag.seeds import stream


@dataclass(frozen=True)
class SampledFisher:
    """What labels ŷ drawn from the network tell of F = E ∇ℓ(ŷ) ∇ℓ(ŷ)ᵀ.

    Attributes:
        trace: tr F, which is tr G.
        nme_trace: tr N of the drawn labels, which is 0 in the mean.
        product: F v, ``(n,)``; None where no v was given.
        stderr: standard error of each of its entries; None likewise.
    """

    trace: Estimate
    nme_trace: Estimate
    product: Tensor | None = None
    stderr: Tensor | None = None


@undisturbed()
def sampled_fisher(
    decomposition: Decomposition, v: Tensor | None = None, *, num_draws: int = 32, seed: int = 0
) -> SampledFisher:
    """Estimate tr F, F v and the trace of the NME of drawn labels.

    Let ḡ be the gradient of the mean loss over N examples with labels ŷ. They are independent, and
    each one's gradient is 0 in the mean, hence ``F = N E ḡḡᵀ``, ``tr F = N E ‖ḡ‖²``,
    ``E N(ŷ) = 0`` and so ``F = E H(ŷ) = G``.

    Cost: about three gradients a draw, for N v of one probe.

    Args:
        decomposition: of network, data and a loss with a name, which is the likelihood of labels.
        v: flat ``(n,)``.
        num_draws: of the labels of all examples, at least 2.
        seed: of labels and probes.

    Raises:
        InputError: fewer than two draws, a v that does not fit, a loss that has no labels to
            sample, or a network that is spread over processes.

    Source: Dauphin, Agarwala and Mobahi (2024), eqs. 4-6.
    """
    decomposition.check_whole("a Fisher matrix by drawn labels")
    risk, size = decomposition.risk, decomposition.num_parameters
    if num_draws < 2:
        raise InputError("`num_draws` is too small", got=num_draws, wanted="at least 2")
    if v is not None and v.shape != (size,):
        raise InputError(
            "the vector does not fit the parameters",
            got=f"shape {tuple(v.shape)}",
            wanted=f"({size},)",
        )
    decomposition.gradient()  # refuses what has no derivatives
    along = None if v is None else v.to(risk.device, torch.float64)
    products = torch.zeros(2, size, dtype=torch.float64, device=risk.device)  # and their squares
    probes = Probes(size, seed=seed, dtype=risk.dtype, device=risk.device)
    traces = torch.empty(num_draws, dtype=torch.float64)
    forms = torch.empty_like(traces)
    for index in range(num_draws):
        probe = probes.rows(index, index + 1)[0]
        generator = torch.Generator(risk.device).manual_seed(stream(seed, "fisher", index))
        gradient, nme = of_drawn_labels(risk, probe, generator)
        traces[index] = gradient.square().sum()
        forms[index] = probe.double() @ nme
        if along is not None:
            product = gradient * (gradient @ along)
            products += torch.stack([product, product.square()])
    trace, nme_trace = (estimate_mean(of.numpy()).bounded() for of in (traces, forms))
    if along is None:
        return SampledFisher(trace, nme_trace)
    mean, square = products / num_draws
    variance = (square - mean.square()).clamp(min=0) * num_draws / (num_draws - 1)
    return SampledFisher(trace, nme_trace, mean, (variance / num_draws).sqrt())


@undisturbed()
def check_labels(decomposition: Decomposition) -> None:
    """Refuse a loss that is the likelihood of no labels, so that F is not G; one forward pass.

    Raises:
        InputError: it has no labels to sample.
    """
    risk = decomposition.risk
    x, y = next(iter(risk.microbatches()))
    at = risk.loss.at(risk.outputs(x).detach(), y)
    at.sampled_cotangent(at.draw(len(y), torch.Generator(risk.device)))


def of_drawn_labels(
    risk: EmpiricalRisk, v: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a label for each example; compute √N ḡ and N v of them, flat and in float64."""
    parameters, layout = list(risk.parameters.values()), risk.layout
    gradient = torch.zeros(layout.size, dtype=torch.float64, device=risk.device)
    product, weight = torch.zeros_like(gradient), 0.0
    with exact_kernels():
        for x, y in risk.microbatches():
            z = risk.outputs(x)
            at = risk.loss.at(z.detach(), y)
            c = at.sampled_cotangent(at.draw(len(y), generator)).detach()
            s = torch.autograd.grad(z, parameters, c, create_graph=True, materialize_grads=True)
            gradient += layout.flatten([tensor.detach() for tensor in s])
            along = sum((one * v_l).sum() for one, v_l in zip(s, layout.unflatten(v), strict=True))
            if isinstance(along, Tensor) and along.requires_grad:  # else z is linear in θ
                nme = torch.autograd.grad(along, parameters, materialize_grads=True)
                product += layout.flatten(nme)
            weight += at.weight
    return gradient / math.sqrt(weight), product / weight
