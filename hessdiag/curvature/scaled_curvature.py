"""The Hessian as others weigh it: along an optimizer's scales, and class by class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hessdiag.curvature.batches import mapped
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.eigenvalues import largest_eigenvalue
from hessdiag.curvature.kernels import exact_kernels, undisturbed
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.errors import InputError
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate, Probes, Samples, TraceSamples
from hessdiag.losses.loss_spec import LossSpec

EPSILON = 1e-8  # Adam's
_ROWS = 16  # probes in one pass over the data


def preconditioned_lambda_max(
    decomposition: Decomposition,
    scale: Tensor,
    *,
    part: str = "hessian",
    max_passes: int = 200,
    seed: int = 0,
) -> RitzValue:
    """Find λ max of P^{-1/2} A P^{-1/2}, P = diag(scale), which decides whether Adam is stable.

    Cost: two products a Lanczos step.

    Args:
        decomposition: of network, data and loss.
        scale: P's diagonal, flat ``(n,)``, above 0: for Adam √v̂ + ε.
        part: A, "hessian", "gn" or "nme".
        max_passes: Lanczos steps.
        seed: of the start.

    Raises:
        InputError: a scale of another size, or not above 0.

    Source: Cohen et al. (2022), "Adaptive gradient methods at the edge of stability", eq. 3.
    """
    size = decomposition.num_parameters
    if scale.shape != (size,) or not bool((scale > 0).all()):
        got = f"shape {tuple(scale.shape)}, from {float(scale.min()):.3g}"
        raise InputError("the scale does not fit", got=got, wanted=f"({size},), above 0")
    root = scale.to(decomposition.risk.device, torch.float64).rsqrt()
    return largest_eigenvalue(decomposition, part, root=root, max_passes=max_passes, seed=seed)


@undisturbed()
def adam_scale(decomposition: Decomposition) -> Tensor:
    """Compute √v̂ + ε with v̂ the mean of the examples' squared gradients, in float64.

    That is what Adam's second moment tends to on batches of one example, and the diagonal of the
    empirical Fisher matrix: for where no optimizer's memory is at hand.

    Cost: a gradient an example.

    Raises:
        InputError: a network that is spread over processes, or normalises by the batch.
    """
    decomposition.check_whole("the scale of Adam")
    risk = decomposition.risk
    _check_examples_apart(risk)
    parameters = list(risk.parameters.values())
    moment = torch.zeros(risk.layout.size, dtype=torch.float64, device=risk.device)
    weight = 0.0
    with exact_kernels():
        for x, y in risk.microbatches():
            for index in range(len(y)):
                one = slice(index, index + 1)
                z = risk.outputs(mapped(x, lambda t, one=one: t[one]))
                at = risk.loss.at(z.detach(), y[one])
                g = torch.autograd.grad(z, parameters, at.cotangent, materialize_grads=True)
                moment += risk.layout.flatten(g).double().square()
                weight += at.weight
    return (moment / weight).sqrt() + EPSILON


def class_samples(
    decomposition: Decomposition, parts: Sequence[str], *, num_probes: int = 32, seed: int = 0
) -> dict[str, dict[int, Samples]]:
    """Sample vᵀA_c v and ‖A_c v‖², A_c that of the mean loss over the examples of class c.

    All classes meet the same probes: with their shares of the examples as weights, the forms sum
    to vᵀA v probe by probe.

    Cost: ``num_probes`` products over the data, in all.

    Args:
        decomposition: of network, data with labels ``(n,)``, and loss.
        parts: A, of "hessian", "gn" and "nme".
        num_probes: Rademacher probes.
        seed: of them.

    Returns:
        By part and class.

    Raises:
        InputError: targets that are no labels; a network that is spread over processes, or
            normalises by the batch.
    """
    decomposition.check_whole("a trace of each class")
    risk = decomposition.risk
    _check_examples_apart(risk)
    labels: set[int] = set()
    for _, y in risk.microbatches():
        if not isinstance(y, Tensor) or y.is_floating_point() or y.ndim != 1:
            raise InputError("the targets are no labels of classes", wanted="integers (n,)")
        labels.update(y.unique().tolist())
    probes = Probes(decomposition.num_parameters, seed=seed, dtype=risk.dtype, device=risk.device)
    found: dict[str, dict[int, Samples]] = {part: {} for part in parts}
    for label in sorted(labels):
        own = decomposition.on(_OfClass(risk, label))
        taken = {part: TraceSamples() for part in parts}
        for start in range(0, num_probes, _ROWS):
            rows = probes.rows(start, min(start + _ROWS, num_probes))
            products = own.products(rows, parts)
            for part, samples in taken.items():
                samples.add(rows, getattr(products, part))
        for part, samples in taken.items():
            found[part][label] = samples.freeze()
    return found


def class_traces(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    loss: LossSpec | None = None,
    part: str = "hessian",
    num_probes: int = 32,
    seed: int = 0,
    **network: Any,
) -> dict[int, Estimate]:
    """Estimate tr A_c, the trace of the mean loss over the examples of each class c.

    Cost: ``num_probes`` products over the data, in all.

    Args:
        model: any ``nn.Module`` from a batch to one tensor.
        batches: (x, y) with labels ``(n,)``.
        loss: as :func:`hessdiag.spectrum` takes it.
        part: A, "hessian", "gn" or "nme".
        num_probes: Rademacher probes, the same for all classes.
        seed: of them.
        **network: more for :class:`hessdiag.Decomposition`.

    Raises:
        InputError: targets that are no labels; a network that normalises by the batch.
    """
    decomposition = Decomposition(model, batches, loss, **network)
    found = class_samples(decomposition, (part,), num_probes=num_probes, seed=seed)[part]
    return {label: samples.trace() for label, samples in found.items()}


@dataclass(frozen=True)
class _OfClass:
    """The examples of one class, in batches as they were."""

    risk: EmpiricalRisk
    label: int

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for x, y in self.risk.microbatches():
            assert isinstance(y, Tensor)
            chosen = y == self.label
            if bool(chosen.any()):
                yield mapped(x, lambda t, chosen=chosen: t[chosen]), y[chosen]


def _check_examples_apart(risk: EmpiricalRisk) -> None:
    if risk.bn == "batch":
        raise InputError("the examples cannot be told apart", got="bn batch", wanted="bn eval")
