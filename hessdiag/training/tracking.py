"""Curvature tracked during a run, on a fixed sample with fixed probes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.memory import fitting_microbatch
from hessdiag.curvature.perturbation import perturbation_gap
from hessdiag.curvature.sharpness import Sharpness, sharpness
from hessdiag.errors import InputError, NotFinite
from hessdiag.linalg.trace import Estimate
from hessdiag.losses.loss_spec import LossSpec
from hessdiag.metrics import metric_table
from hessdiag.metrics.metric import Metric, Missing
from hessdiag.metrics.metric_reading import Reading
from hessdiag.seeds import stream
from hessdiag.sparsities.preactivations import Shares
from hessdiag.sparsities.sparsity_run import sparsity
from hessdiag.spectra.spectrum_result import Report
from hessdiag.spectra.spectrum_run import spectrum
from hessdiag.spectra.tangent_kernel import tangent_kernel
from hessdiag.training.feeds import Data, examples
from hessdiag.training.folder import Config

SAMPLES = 256  # examples of the fixed sample
PROBES = 16
_SIGMA2 = 1e-4  # of perturbations where the regulariser has none


@dataclass(frozen=True)
class Perturbed:
    """What random perturbations of the weights cost.

    Attributes:
        gap: E L(θ + ε) − L(θ).
        trace: 2/σ² of it.
    """

    gap: Estimate
    trace: Estimate


@dataclass(frozen=True)
class Tracker:
    """What to measure, and on what.

    Attributes:
        names: of the metrics, any of :mod:`hessdiag.metrics.metric_table`.
        x: inputs ``(n, …)``.
        y: labels ``(n,)``.
        loss: name of the loss.
        sigma2: σ² of the perturbations; 0 for 10⁻⁴.
        seed: of the probes.
    """

    names: tuple[str, ...]
    x: Tensor
    y: Tensor
    loss: str
    sigma2: float
    seed: int

    def measure(self, model: nn.Module) -> dict[str, Reading]:
        """Measure at the model's weights as they are, in evaluation mode; nothing of it changes.

        What is not finite there is NaN: a run goes on, whatever its curvature.
        """
        found = {name: Reading(math.nan, None) for name in self.names}
        with suppress(NotFinite):
            few = Decomposition(model, [(self.x[:2], self.y[:2])], self.loss)
            size = fitting_microbatch(few.risk, len(self.x))
            batches = list(zip(self.x.split(size), self.y.split(size), strict=True))
            options: dict[str, Any] = {
                "num_probes": PROBES,
                "seed": self.seed,
                "sigma2": self.sigma2,
            }
            found |= measured(self.names, model, batches, self.loss, **options)
        return found


def measured(
    names: Iterable[str],
    model: nn.Module,
    batches: Iterable[Any],
    loss: LossSpec | None,
    *,
    num_probes: int,
    seed: int,
    sigma2: float = 0.0,
) -> dict[str, Reading]:
    """Measure metrics of any source, each source once; those that it lacks are left out.

    Raises:
        NotFinite: a loss, a gradient or a product.
    """
    probes: dict[str, Any] = {"seed": seed, "num_probes": num_probes}

    def of_spectrum(metrics: list[Metric]) -> Report:
        return spectrum(model, batches, loss=loss, **probes, **metric_table.settings(metrics))

    def of_sparsity(_: list[Metric]) -> Shares:
        return sparsity(model, batches, loss=loss).total

    def of_perturbation(_: list[Metric]) -> Perturbed:
        variance = sigma2 or _SIGMA2
        risk = Decomposition(model, batches, loss).risk
        gap = perturbation_gap(risk, variance, num_pairs=num_probes, seed=seed)
        return Perturbed(gap, gap.times(2 / variance))

    def of_sharpness(_: list[Metric]) -> Sharpness:
        return sharpness(Decomposition(model, batches, loss))

    sources = {
        "spectrum": of_spectrum,
        "sparsity": of_sparsity,
        "perturbation": of_perturbation,
        "sharpness": of_sharpness,
        "ntk": lambda _: tangent_kernel(model, batches, **probes),
    }
    wanted = {name: metric_table.parse(name) for name in names}
    found: dict[str, Reading] = {}
    for source, measure in sources.items():
        group = {name: metric for name, metric in wanted.items() if metric.source == source}
        if group:
            result = measure(list(group.values()))
            readings = {name: metric.read(result) for name, metric in group.items()}
            found |= {n: r for n, r in readings.items() if not isinstance(r, Missing)}
    return found


def make_tracker(
    config: Config, data: Data, training: Tensor, num_parameters: int
) -> Tracker | None:
    """Draw the fixed sample; None where nothing is to be tracked.

    Args:
        config: of the run.
        data: the examples.
        training: indices of those trained on.
        num_parameters: of the network.

    Raises:
        InputError: an unknown metric, or an eigenvalue that the network does not have.
    """
    if not config.track:
        return None
    check(config.track)
    asked = [metric_table.parse(name) for name in config.track]
    if metric_table.settings(asked)["top_k"] > num_parameters:
        raise InputError(
            "the network has fewer eigenvalues than are to be tracked",
            got=f"--track {','.join(config.track)} with {num_parameters} parameters",
        )
    generator = torch.Generator().manual_seed(stream(config.seed, "tracking"))
    chosen = torch.randperm(len(training), generator=generator)[:SAMPLES]
    x, y = examples(data, training[chosen])
    loss, sigma2 = config.recipe.loss, getattr(config.method, "sigma2", 0.0)
    return Tracker(config.track, x, y, loss, sigma2, config.seed)


def check(names: Sequence[str]) -> None:
    """Refuse names that are no metrics.

    Raises:
        InputError: there is none of that name.
    """
    for name in names:
        metric_table.parse(name, what="metric to track")
