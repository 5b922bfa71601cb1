"""What can be asked for beside a spectrum: each source of metrics is looked at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.perturbation import gaps
from hessdiag.curvature.sampled_fisher import sampled_fisher
from hessdiag.curvature.scaled_curvature import (
    adam_scale,
    class_samples,
    preconditioned_lambda_max,
)
from hessdiag.curvature.sharpness import sharpness
from hessdiag.curvature.tangent_kernel import kernel_change, kernel_matrix, tangent_kernel
from hessdiag.linalg.trace import Samples
from hessdiag.metrics.look import Look, Sampled
from hessdiag.metrics.metric import Metric, Missing
from hessdiag.metrics.metric_reading import Reading
from hessdiag.metrics.metric_table import parse

_SIGMA2 = 1e-4  # of perturbations where nothing else is said


@dataclass(frozen=True)
class Conditions:
    """How metrics beside a spectrum are measured.

    Attributes:
        num_probes: behind estimates: probes, perturbations, draws of labels.
        seed: of them.
        sigma2: σ² of perturbations; 0 for 10⁻⁴.
        scale: √v̂ + ε of the optimizer; None for :func:`adam_scale`.
        kernel: the tangent kernel that ``ntk.change`` is counted from; None where there is none.
    """

    num_probes: int
    seed: int
    sigma2: float = 0.0
    scale: Tensor | None = None
    kernel: Tensor | None = None


def measure(
    wanted: Mapping[str, Metric], decomposition: Decomposition, conditions: Conditions
) -> dict[str, Reading | Missing]:
    """Measure metrics of all sources but spectrum and sparsity; others are left out.

    A name with ``*`` in the place of a class gives a reading of each class.

    Raises:
        InputError: the network or the data do not allow it.
        NotFinite: a loss or a product.
    """
    found: dict[str, Reading | Missing] = {}
    for source, look in _SOURCES.items():
        group = {name: metric for name, metric in wanted.items() if metric.source == source}
        if not group:
            continue
        result = look(decomposition, [*group.values()], conditions)
        for name, metric in group.items():
            if "*" in name:
                every = [name.replace("*", label) for label in result.parts[metric.parts[0]].layers]
                found |= {one: parse(one).read(result) for one in every}
            else:
                found[name] = metric.read(result)
    return found


def _sharpness(decomposition: Decomposition, _: list[Metric], __: Conditions) -> Any:
    return sharpness(decomposition)


def _perturbation(decomposition: Decomposition, _: list[Metric], how: Conditions) -> Any:
    sigma2 = how.sigma2 or _SIGMA2
    found = gaps(decomposition.risk, sigma2, num_pairs=how.num_probes, seed=how.seed)
    forms = {"gap": found, "trace": tuple(2 / sigma2 * gap for gap in found)}
    return Look({name: Sampled(Samples((), (), forms=of)) for name, of in forms.items()})


def _ntk(decomposition: Decomposition, metrics: list[Metric], how: Conditions) -> Look:
    sampled = any(metric.is_sampled for metric in metrics)
    found = tangent_kernel(
        decomposition,
        num_probes=how.num_probes if sampled else 0,
        eigenvalue=any(metric.end for metric in metrics),
        seed=how.seed,
    )
    return Look({"gn": Sampled(found.samples, (found.lambda_max,) if found.lambda_max else ())})


def _kernel(decomposition: Decomposition, _: list[Metric], how: Conditions) -> Any:
    if how.kernel is None:
        return SimpleNamespace(change=None)
    return SimpleNamespace(change=kernel_change(kernel_matrix(decomposition), how.kernel))


def _classes(decomposition: Decomposition, metrics: list[Metric], how: Conditions) -> Look:
    parts = tuple(dict.fromkeys(metric.parts[0] for metric in metrics))
    found = class_samples(decomposition, parts, num_probes=how.num_probes, seed=how.seed)
    by_name = {part: {str(label): of for label, of in own.items()} for part, own in found.items()}
    return Look({part: Sampled(Samples((), (), own)) for part, own in by_name.items()})


def _preconditioned(decomposition: Decomposition, _: list[Metric], how: Conditions) -> Look:
    scale = adam_scale(decomposition) if how.scale is None else how.scale
    top = preconditioned_lambda_max(decomposition, scale, seed=how.seed)
    return Look({"hessian": Sampled(Samples((), ()), (top,))})


def _fisher(decomposition: Decomposition, _: list[Metric], how: Conditions) -> Any:
    found = sampled_fisher(decomposition, num_draws=max(how.num_probes, 2), seed=how.seed)
    drawn = SimpleNamespace(trace=found.trace, samples=None)  # no bound of their tails is certain
    return SimpleNamespace(parts={"gn": drawn}, nme_trace=found.nme_trace)


_SOURCES: dict[str, Callable[[Decomposition, list[Metric], Conditions], Any]] = {
    "sharpness": _sharpness,
    "perturbation": _perturbation,
    "preconditioned": _preconditioned,
    "classes": _classes,
    "fisher": _fisher,
    "ntk": _ntk,
    "kernel": _kernel,
}
