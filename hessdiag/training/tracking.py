"""Curvature tracked during a run, on a fixed sample with fixed probes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.memory import fitting_microbatch
from hessdiag.curvature.tangent_kernel import kernel_matrix
from hessdiag.errors import InputError, NotFinite
from hessdiag.linalg.trace import TraceSamples
from hessdiag.losses.loss_spec import LossSpec
from hessdiag.metrics import metric_table
from hessdiag.metrics.metric import Missing
from hessdiag.metrics.metric_reading import Reading
from hessdiag.seeds import stream
from hessdiag.sparsities.sparsity_run import sparsity
from hessdiag.spectra.further_metrics import Conditions, measure
from hessdiag.spectra.spectrum_run import spectrum
from hessdiag.training.feeds import Data, examples
from hessdiag.training.folder import Config

SAMPLES = 256  # examples of the fixed sample
PROBES = 16
KERNEL = "ntk.change"


@dataclass
class Tracker:
    """What to measure, and on what.

    Attributes:
        names: of the metrics, any of :mod:`hessdiag.metrics.metric_table`.
        x: inputs ``(n, …)``.
        y: labels ``(n,)``.
        loss: name of the loss.
        sigma2: σ² of the perturbations; 0 for 10⁻⁴.
        seed: of the probes.
        kernel: the tangent kernel at the start of the run; None before it, and where not needed.
    """

    names: tuple[str, ...]
    x: Tensor
    y: Tensor
    loss: str
    sigma2: float
    seed: int
    kernel: Tensor | None = None

    def measure(self, model: nn.Module, scale: Tensor | None = None) -> dict[str, Reading]:
        """Measure at the model's weights as they are, in evaluation mode; nothing of it changes.

        What is not finite there is NaN: a run goes on, whatever its curvature.

        Args:
            model: at its weights.
            scale: √v̂ + ε of an optimizer such as Adam, flat; None where it has none.
        """
        found = {name: Reading(math.nan, None) for name in self.names}
        with suppress(NotFinite):
            few = Decomposition(model, [(self.x[:2], self.y[:2])], self.loss)
            size = fitting_microbatch(few.risk, len(self.x))
            batches = list(zip(self.x.split(size), self.y.split(size), strict=True))
            how = Conditions(PROBES, self.seed, self.sigma2, scale, self.kernel)
            found |= measured(self.names, model, batches, self.loss, how)
        return found

    def begin(self, model: nn.Module) -> None:
        """Keep what changes are counted from, at the model's weights as they are."""
        if KERNEL not in self.names:
            return
        with suppress(NotFinite):
            self.kernel = kernel_matrix(Decomposition(model, [(self.x, self.y)], self.loss))


def measured(
    names: Iterable[str],
    model: nn.Module,
    batches: Iterable[Any],
    loss: LossSpec | None,
    conditions: Conditions,
) -> dict[str, Reading]:
    """Measure metrics of any source, each source once; those that it lacks are left out.

    Raises:
        NotFinite: a loss, a gradient or a product.
    """
    wanted = {name: metric_table.parse(name) for name in names}
    found: dict[str, Reading | Missing] = {}
    if spectral := {name: of for name, of in wanted.items() if of.source == "spectrum"}:
        count = conditions.num_probes
        how: dict[str, Any] = {"num_probes": count}
        if all(of.is_trace for of in spectral.values()):  # as many probes without products
            how = {"num_probes": 1, "max_probes": count, "enough": _is_exact}
            how |= {"traces_alone": True, "certain": True}
        report = spectrum(
            model,
            batches,
            loss=loss,
            seed=conditions.seed,
            **how,
            **metric_table.settings(spectral.values()),
        )
        found |= {name: of.read(report) for name, of in spectral.items()}
    if sparse := {name: of for name, of in wanted.items() if of.source == "sparsity"}:
        total = sparsity(model, batches, loss=loss).total
        found |= {name: of.read(total) for name, of in sparse.items()}
    if further := {name: of for name, of in wanted.items() if name not in found}:
        found |= measure(further, Decomposition(model, batches, loss), conditions)
    return {name: of for name, of in found.items() if isinstance(of, Reading)}


def _is_exact(part: str, samples: Mapping[str, TraceSamples]) -> bool:
    return samples[part].exact is not None


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
