"""Curvature tracked during a run, on a fixed sample with fixed probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.memory import fitting_microbatch
from hessdiag.curvature.perturbation import perturbation_gap
from hessdiag.errors import InputError, NotFinite, unknown
from hessdiag.metrics import spectrum_metrics as metrics
from hessdiag.metrics.spectrum_metrics import Reading
from hessdiag.seeds import stream
from hessdiag.sparsities.sparsity_run import sparsity
from hessdiag.spectra.spectrum_run import spectrum
from hessdiag.training.feeds import Data, examples
from hessdiag.training.folder import Config

Batches = list[tuple[Tensor, Tensor]]

SAMPLES = 256  # examples of the fixed sample
PROBES = 16
_SIGMA2 = 1e-4  # of perturbations where the regulariser has none
_SPARSITIES = ("sparsity.nonzero", "sparsity.above")
_PERTURBATIONS = ("perturbation.gap", "perturbation.trace")


@dataclass(frozen=True)
class Tracker:
    """What to measure, and on what.

    Attributes:
        names: of the metrics: those of a spectrum (:mod:`hessdiag.metrics.spectrum_metrics`);
            "sparsity.nonzero" and "sparsity.above", shares of the pre-activations with φ'' ≠ 0 and
            with |φ''| above a thousandth of its maximum; "perturbation.gap", ``E L(θ + ε) − L(θ)``,
            and "perturbation.trace", 2/σ² of it, to be compared with tr H.
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
            for measure in (self._sparsities, self._spectral, self._perturbations):
                found |= measure(model, batches)
        return {name: found[name] for name in self.names}

    def _spectral(self, model: nn.Module, batches: Batches) -> dict[str, Reading]:
        spectral = {name: metric for name in self.names if (metric := metrics.parse(name))}
        if not spectral:
            return {}
        least = metrics.settings(spectral.values())
        report = spectrum(
            model, batches, loss=self.loss, num_probes=PROBES, seed=self.seed, **least
        )
        readings = {name: metrics.read(report, metric) for name, metric in spectral.items()}
        return {name: reading for name, reading in readings.items() if reading is not None}

    def _sparsities(self, model: nn.Module, batches: Batches) -> dict[str, Reading]:
        if set(_SPARSITIES).isdisjoint(self.names):
            return {}
        total = sparsity(model, batches, loss=self.loss).total
        return {
            "sparsity.nonzero": Reading(total.nonzero),
            "sparsity.above": Reading(total.above),
        }

    def _perturbations(self, model: nn.Module, batches: Batches) -> dict[str, Reading]:
        if set(_PERTURBATIONS).isdisjoint(self.names):
            return {}
        sigma2 = self.sigma2 or _SIGMA2
        risk = Decomposition(model, batches, self.loss).risk
        gap = Reading.of(perturbation_gap(risk, sigma2, num_pairs=PROBES, seed=self.seed))
        return {"perturbation.gap": gap, "perturbation.trace": gap.times(2 / sigma2)}


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
    asked = [metric for name in config.track if (metric := metrics.parse(name))]
    if metrics.settings(asked)["top_k"] > num_parameters:
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
    others = (*_SPARSITIES, *_PERTURBATIONS)
    for name in names:
        if name not in others and metrics.parse(name) is None:
            known = (*metrics.NAMES, *others)
            raise unknown("metric to track", name, known, hint=metrics.FORMS)
