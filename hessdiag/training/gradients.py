"""Regularisers, each as another way to compute the gradient of a training step.

Every method takes a Task, a batch with its objective, strengths and random streams, and returns a
Step. BatchNorm's running statistics move once, on the unperturbed pass, or on the first one where
all passes are perturbed. Weights are as they were, bit for bit, when a function returns.

Of several processes each differentiates its own examples' part of the loss; the parts are summed
where a gradient is used: in a perturbation, in a product, in the step. Noise and probes are shared,
so that the step is that of one process with the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from hessdiag.curvature.composition import Composed
from hessdiag.curvature.jet_rules import Unsupported
from hessdiag.curvature.jets import Jets
from hessdiag.linalg import processes
from hessdiag.training.task import Step, Task

Tensors = Sequence[Tensor]
_TINY = 1e-12  # keeps ĝ = g/(‖g‖ + ε) finite
_ASAM_ETA = 0.01


Method = Callable[[Task], Step]


def plain(task: Task) -> Step:
    """Compute g = ∇L. Cost: 1 gradient."""
    z, loss = task.evaluate()
    return _step(_derivative([loss], task), z, loss)


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
    own = [tensor.detach() for tensor in gradient]
    g = processes.summed(own)
    scale = (
        2 * task.strengths.rho
        if task.strengths.power == 2
        else task.strengths.rho / (_norm(g) + _TINY)
    )
    v = [scale * tensor for tensor in g]
    curved = _gn_product(task, z, v) if ablate else _derivative(gradient, task, v)
    return _step(_add(own, curved), z, loss)


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
    """Compute (1/m) Σ ∇L(θ + ε), ε ~ N(0, σ² I); in expectation ∇(L + (σ²/2) tr H) + O(σ⁴).

    Cost: m gradients; m = 2k compares with the k pairs of NSO.
    """
    scale = math.sqrt(task.strengths.sigma2)
    return _averaged(task, (_normal(task, scale) for _ in range(task.strengths.samples)))


def nso(task: Task) -> Step:
    """Compute the mean over k pairs of ½[∇L(θ + ε) + ∇L(θ − ε)], the same batch for all.

    Cost: 2k gradients. Source: Zhang, Li and Ju (2024), algorithm 1.
    """

    def pairs() -> Generator[Tensors]:
        for _ in range(task.strengths.num_pairs):
            noise = _normal(task, math.sqrt(task.strengths.sigma2))
            yield noise
            yield [-tensor for tensor in noise]

    return _averaged(task, pairs())


def hessian_trace(task: Task) -> Step:
    """Compute ∇[L + (κ/m) Σ vᵀHv], which in mean penalises κ tr H.

    Cost: 13/3 gradients a sample, by second-order Taylor mode: 5 convolutions forward and 8 back
    where a gradient has 1 and 2. Without a rule for some function of the network, 9.

    Source: Dauphin, Agarwala and Mobahi (2024), eq. 21 (which lacks a factor 2).
    """
    z, loss, gradient = _hessian_trace(task)
    return _step(gradient, z, loss)


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
    return _step(_add(gradient, _gn_trace_gradient(task, z)), z, loss)


def nme_trace(task: Task) -> Step:
    """Penalise κ tr N = κ (tr H − tr G): the Hessian-trace penalty less that of Gauss-Newton.

    Cost: 7 gradients for one sample; 35/3 where the Hessian-trace penalty costs 9.

    Source: Dauphin, Agarwala and Mobahi (2024), sec. 5.2.
    """
    z, loss, gradient = _hessian_trace(task, retain_graph=True)
    penalty = [-tensor for tensor in _gn_trace_gradient(task, z)]
    return _step(_add(gradient, penalty), z, loss)


def _averaged(task: Task, moves: Iterable[Tensors]) -> Step:
    """Average the gradients at displaced weights; the first pass gives all else."""
    passes: list[tuple[Tensor, Tensor]] = []
    total = [torch.zeros_like(tensor) for tensor in task.parameters]
    for move in moves:
        with _displaced(task.parameters, move):
            z, loss = task.evaluate(move_statistics=not passes)
            total = _add(total, _derivative([loss], task))
        passes.append((z.detach(), loss.detach()))
    return _step([tensor / len(passes) for tensor in total], *passes[0])


def _hessian_trace(
    task: Task, *, retain_graph: bool = False
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Compute z, L and a sample of ∇[L + κ tr H]; z's graph stays if ``retain_graph``."""
    passes: list[tuple[Tensor, Tensor]] = []
    total = [torch.zeros_like(tensor) for tensor in task.parameters]
    for _ in range(task.strengths.samples):
        z, loss, curvature = _curvature(task, _probe(task), move_statistics=not passes)
        penalised = loss + task.strengths.kappa * curvature
        keep = retain_graph and not passes
        total = _add(total, _derivative([penalised], task, retain_graph=keep))
        passes.append((z, loss))
    return *passes[0], [tensor / len(passes) for tensor in total]


def _curvature(task: Task, v: Tensors, *, move_statistics: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Compute z, L and vᵀHv, with a graph."""
    buffers = [(buffer, buffer.clone()) for buffer in task.objective.model.buffers()]
    try:
        with Jets(task.parameters, v) as jets, Composed(order=3):
            z, loss = task.evaluate(move_statistics=move_statistics)
        return z, loss, jets.of(loss).second
    except Unsupported:  # attention and functions of the user's own, among others
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    with Composed(order=3):
        z, loss = task.evaluate(move_statistics=move_statistics)
    gradient = _derivative([loss], task, create_graph=True)
    products = _derivative(gradient, task, v, create_graph=True)
    terms = [(probe * product).sum() for probe, product in zip(v, products, strict=True)]
    return z, loss, torch.stack(terms).sum()


def _gn_trace_gradient(task: Task, z: Tensor) -> list[Tensor]:
    """Sample the gradient of κ tr G, ``2κN ∂(Jᵀc/N)/∂θ ḡ``; the graph of z is kept."""
    total = [torch.zeros_like(tensor) for tensor in task.parameters]
    weight = 2 * task.strengths.kappa * task.num_examples / task.strengths.samples
    for _ in range(task.strengths.samples):
        c = task.sampled_cotangent(z)
        c = c.detach() if task.strengths.straight_through else c
        sampled = _derivative([z], task, [c], create_graph=True)
        v = [weight * tensor for tensor in processes.summed([t.detach() for t in sampled])]
        total = _add(total, _derivative(sampled, task, v, retain_graph=True))
    return total


def _ascend(task: Task, step: Step, move: Tensors) -> Step:
    """Take the gradient at the displaced weights; loss and outputs are those of ``step``."""
    with _displaced(task.parameters, move):
        _, loss = task.evaluate(move_statistics=False)
        return replace(step, gradient=processes.summed(_derivative([loss], task)))


def _gn_product(task: Task, z: Tensor, v: Tensors) -> list[Tensor]:
    """Compute G v = Jᵀ B (J v) for the mean loss; J v as a derivative of Jᵀ c, linear in c."""
    c = torch.zeros_like(z).requires_grad_()
    pulled = _derivative([z], task, [c], create_graph=True)
    used = [i for i, tensor in enumerate(pulled) if tensor.requires_grad]
    (u,) = torch.autograd.grad([pulled[i] for i in used], c, [v[i] for i in used])
    return _derivative([z], task, [task.output_hessian(z, u)])


def _step(gradient: Tensors, z: Tensor, loss: Tensor) -> Step:
    """Sum the processes' parts of the step's gradient and of its loss."""
    *whole, mean = processes.summed([*gradient, loss.detach()])
    return Step(whole, z.detach(), mean)


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
