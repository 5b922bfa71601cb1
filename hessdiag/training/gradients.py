"""Regularisers, each as another way to compute the gradient of a training step.

Every method takes a Task, a batch with its objective, strengths and random streams, and returns a
Step. BatchNorm's running statistics move once, on the unperturbed pass, or on the first one where
all passes are perturbed. Weights are as they were, bit for bit, when a function returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from hessdiag.nets.normalisation import ComposedNormalisation
from hessdiag.training.task import Step, Task

Tensors = Sequence[Tensor]
_TINY = 1e-12  # keeps ĝ = g/(‖g‖ + ε) finite
_ASAM_ETA = 0.01


Method = Callable[[Task], Step]


def plain(task: Task) -> Step:
    """Compute g = ∇L. Cost: 1 gradient."""
    z, loss = task.evaluate()
    return Step(_derivative([loss], task), z.detach(), loss.detach())


def grad_penalty(task: Task) -> Step:
    """Compute ∇(L + ρ‖g‖ᵖ): g + ρ H ĝ for p = 1, g + 2ρ H g for p = 2.

    With ``ablate_nme`` H is replaced by its Gauss-Newton part, which penalises nothing: it is the
    update without the NME.

    Cost: 3 gradients.

    Source: Dauphin, Agarwala and Mobahi (2024), eqs. 7-8 (8 lacks ρ), and their ablation.
    """
    z, loss = task.evaluate()
    ablate = task.strengths.ablate_nme
    gradient = _derivative([loss], task, create_graph=not ablate, retain_graph=True)
    g = [tensor.detach() for tensor in gradient]
    scale = (
        2 * task.strengths.rho
        if task.strengths.power == 2
        else task.strengths.rho / (_norm(g) + _TINY)
    )
    v = [scale * tensor for tensor in g]
    curved = _gn_product(task, z, v) if ablate else _derivative(gradient, task, v)
    return Step(_add(g, curved), z.detach(), loss.detach())


def sam(task: Task) -> Step:
    """Compute ∇L(θ + ρ ĝ). Cost: 2 gradients. Source: Foret et al. (2021), eq. 3."""
    step = plain(task)
    scale = task.strengths.rho / (_norm(step.gradient) + _TINY)
    return _ascend(task, step, [scale * tensor for tensor in step.gradient])


def usam(task: Task) -> Step:
    """Compute ∇L(θ + ρ g), SAM without normalisation. Cost: 2 gradients."""
    step = plain(task)
    return _ascend(task, step, [task.strengths.rho * tensor for tensor in step.gradient])


def asam(task: Task) -> Step:
    """Compute ∇L(θ + ρ T² g/‖T g‖), T = |θ| + 0.01 for weights and 1 for biases and scales.

    Cost: 2 gradients. Source: Kwon, Kim, Park and Choi (2021), eq. 4.
    """
    step = plain(task)
    scales = [
        tensor.detach().abs() + _ASAM_ETA if tensor.ndim > 1 else torch.ones_like(tensor)
        for tensor in task.parameters
    ]
    scaled = [t * g for t, g in zip(scales, step.gradient, strict=True)]
    size = task.strengths.rho / (_norm(scaled) + _TINY)
    return _ascend(task, step, [size * t * tg for t, tg in zip(scales, scaled, strict=True)])


def weight_noise(task: Task) -> Step:
    """Compute ∇L(θ + ε), ε ~ N(0, σ² I); in mean ∇(L + (σ²/2) tr H) + O(σ⁴). Cost: 1 gradient."""
    noise = _normal(task, math.sqrt(task.strengths.sigma2))
    with _displaced(task.parameters, noise):
        return plain(task)


def nso(task: Task) -> Step:
    """Compute the mean over k pairs of ½[∇L(θ + ε) + ∇L(θ − ε)], the same batch for all.

    Cost: 2k gradients. Source: Zhang, Li and Ju (2024), algorithm 1.
    """
    first: Step | None = None
    total = [torch.zeros_like(tensor) for tensor in task.parameters]
    for _ in range(task.strengths.num_pairs):
        noise = _normal(task, math.sqrt(task.strengths.sigma2))
        for sign in (1, -1):
            with _displaced(task.parameters, [sign * tensor for tensor in noise]):
                z, loss = task.evaluate(move_statistics=first is None)
                step = Step(_derivative([loss], task), z.detach(), loss.detach())
            total = _add(total, step.gradient)
            first = first or step
    assert first is not None
    mean = [tensor / (2 * task.strengths.num_pairs) for tensor in total]
    return Step(mean, first.outputs, first.loss)


def hessian_trace(task: Task) -> Step:
    """Compute ∇[L + (κ/m) Σ vᵀHv], which in mean penalises κ tr H.

    Cost: 9 gradients for one sample, by three nested reverse modes.

    Source: Dauphin, Agarwala and Mobahi (2024), eq. 21 (which lacks a factor 2).
    """
    with ComposedNormalisation():
        z, loss = task.evaluate()
    total = loss + _hessian_trace(task, loss)
    return Step(_derivative([total], task), z.detach(), loss.detach())


def gn_trace(task: Task) -> Step:
    """Compute ∇[L + κ (N/m) Σ ‖ḡ(ŷ)‖²], which in mean penalises κ tr G, for a batch of N.

    ḡ is the gradient of the mean loss with labels ŷ drawn from the model. They count as constants;
    with ``straight_through`` the gradient passes their sampling, so that the cotangent p − ŷ is
    what counts as constant, and only the NME of the sampled labels is left in the update.

    Cost: 11/3 gradients for one sample.

    Source: Dauphin, Agarwala and Mobahi (2024), sec. 5.2, with the factor N that eq. 20 hides.
    """
    z, loss = task.evaluate()
    gradient = _derivative([loss], task, retain_graph=True)
    return Step(_add(gradient, _gn_trace_gradient(task, z)), z.detach(), loss.detach())


def nme_trace(task: Task) -> Step:
    """Penalise κ tr N = κ (tr H − tr G): the Hessian-trace penalty less that of Gauss-Newton.

    Cost: 35/3 gradients for one sample.

    Source: Dauphin, Agarwala and Mobahi (2024), sec. 5.2.
    """
    with ComposedNormalisation():
        z, loss = task.evaluate()
    total = loss + _hessian_trace(task, loss)
    gradient = _derivative([total], task, retain_graph=True)
    penalty = [-tensor for tensor in _gn_trace_gradient(task, z)]
    return Step(_add(gradient, penalty), z.detach(), loss.detach())


def _hessian_trace(task: Task, loss: Tensor) -> Tensor:
    """Sample κ tr H as a scalar with a graph."""
    gradient = _derivative([loss], task, create_graph=True)
    total = torch.zeros_like(loss)
    for _ in range(task.strengths.samples):
        v = _probe(task)
        products = _derivative(gradient, task, v, create_graph=True)
        for probe, product in zip(v, products, strict=True):
            total = total + (probe * product).sum()
    return task.strengths.kappa / task.strengths.samples * total


def _gn_trace_gradient(task: Task, z: Tensor) -> list[Tensor]:
    """Sample the gradient of κ tr G, ``2κN ∂(Jᵀc/N)/∂θ ḡ``; the graph of z is kept."""
    total = [torch.zeros_like(tensor) for tensor in task.parameters]
    weight = 2 * task.strengths.kappa * len(z) / task.strengths.samples
    for _ in range(task.strengths.samples):
        c = task.objective.sampled_cotangent(z, task.streams.labels) / len(z)
        c = c.detach() if task.strengths.straight_through else c
        sampled = _derivative([z], task, [c], create_graph=True)
        v = [weight * tensor.detach() for tensor in sampled]
        total = _add(total, _derivative(sampled, task, v, retain_graph=True))
    return total


def _ascend(task: Task, step: Step, move: Tensors) -> Step:
    """Take the gradient at the displaced weights; loss and outputs are those of ``step``."""
    with _displaced(task.parameters, move):
        _, loss = task.evaluate(move_statistics=False)
        return Step(_derivative([loss], task), step.outputs, step.loss)


def _gn_product(task: Task, z: Tensor, v: Tensors) -> list[Tensor]:
    """Compute G v = Jᵀ B (J v) for the mean loss; J v as a derivative of Jᵀ c, linear in c."""
    c = torch.zeros_like(z).requires_grad_()
    pulled = _derivative([z], task, [c], create_graph=True)
    used = [i for i, tensor in enumerate(pulled) if tensor.requires_grad]
    (u,) = torch.autograd.grad([pulled[i] for i in used], c, [v[i] for i in used])
    return _derivative([z], task, [task.objective.output_hessian(z, task.y, u)])


def _derivative(
    of: Tensors,
    task: Task,
    along: Tensors | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> list[Tensor]:
    """Differentiate ⟨of, along⟩ in the weights; what does not depend on them adds nothing."""
    used = [i for i, tensor in enumerate(of) if tensor.requires_grad]
    return list(
        torch.autograd.grad(
            [of[i] for i in used],
            task.parameters,
            None if along is None else [along[i] for i in used],
            create_graph=create_graph,
            retain_graph=retain_graph,
            materialize_grads=True,
        )
    )


@contextmanager
def _displaced(parameters: Tensors, move: Tensors) -> Generator[None]:
    """Move the weights within the block; afterwards they are what they were, to the bit."""
    saved = [tensor.detach().clone() for tensor in parameters]
    try:
        with torch.no_grad():
            for tensor, step in zip(parameters, move, strict=True):
                tensor += step
        yield
    finally:
        with torch.no_grad():
            for tensor, before in zip(parameters, saved, strict=True):
                tensor.copy_(before)


def _normal(task: Task, scale: float) -> list[Tensor]:
    return [
        scale
        * torch.randn(
            tensor.shape,
            generator=task.streams.perturbation,
            device=tensor.device,
            dtype=tensor.dtype,
        )
        for tensor in task.parameters
    ]


def _probe(task: Task) -> list[Tensor]:
    normal = _normal(task, 1.0)
    rademacher = task.strengths.probe == "rademacher"
    return [tensor.sign() for tensor in normal] if rademacher else normal


def _norm(tensors: Tensors) -> Tensor:
    return torch.nn.utils.get_total_norm(tensors)


def _add(left: Tensors, right: Tensors) -> list[Tensor]:
    return [a + b for a, b in zip(left, right, strict=True)]
