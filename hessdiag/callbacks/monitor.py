"""Metrics of a network in training, every so many steps; for any loop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.tangent_kernel import kernel_matrix
from hessdiag.errors import InputError, NotFinite
from hessdiag.linalg.extreme_pair import ExtremePair, extreme_pair
from hessdiag.losses.loss_spec import LossSpec
from hessdiag.metrics import metric_table
from hessdiag.metrics.metric_reading import Reading
from hessdiag.seeds import stream
from hessdiag.spectra.further_metrics import Conditions
from hessdiag.training.tracking import KERNEL, measured

_ENDS = ("lambda_max", "lambda_min")


class Monitor:
    """Measures metrics of a network on a fixed sample, every so many steps.

    ::

        monitor = hessdiag.Monitor(["hessian.lambda_max", "gn.trace"], batches, every_n_steps=100)
        for step, batch in enumerate(loader):
            ...
            for name, reading in monitor(model, step).items():
                print(step, name, reading.value, reading.error)

    λ max and λ min start from the eigenvectors found last, which leaves a few products to do; other
    metrics take ``num_probes`` probes, the same each time, and ``ntk.change`` counts from the first
    measurement. Nothing of the network changes.

    Args:
        metrics: names, as ``gate`` and ``train --track`` take them.
        batches: the sample, as for :func:`hessdiag.spectrum`.
        loss: likewise.
        every_n_steps: steps between measurements.
        num_probes: behind estimates.
        seed: of the probes.

    Raises:
        InputError: an unknown metric, or no steps between.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        batches: Iterable[Any],
        *,
        loss: LossSpec | None = None,
        every_n_steps: int = 100,
        num_probes: int = 8,
        seed: int = 0,
    ) -> None:
        if every_n_steps < 1:
            raise InputError(
                "`every_n_steps` is out of range", got=every_n_steps, wanted="at least 1"
            )
        for name in metrics:
            metric_table.parse(name)
        self.metrics = tuple(metrics)
        self.batches = list(batches) if isinstance(batches, Iterator) else batches
        self.loss, self.every_n_steps = loss, every_n_steps
        self.num_probes, self.seed = num_probes, seed
        self.num_products = 0  # spent on eigenvalues
        self._num_measured = 0
        self._vectors: dict[str, Tensor] = {}  # found last
        self._kernel: Tensor | None = None  # found first

    def __call__(self, model: nn.Module, step: int) -> dict[str, Reading]:
        """Measure if it is this step's turn; else nothing."""
        return {} if step % self.every_n_steps else self.measure(model)

    def measure(self, model: nn.Module) -> dict[str, Reading]:
        """Measure now; a metric that is not finite is NaN, and training goes on."""
        found = {name: Reading(math.nan, None) for name in self.metrics}
        tracked = [name for name in self.metrics if _is_tracked(name)]
        others = [name for name in self.metrics if name not in tracked]
        self._num_measured += 1
        try:
            if KERNEL in others and self._kernel is None:
                self._kernel = kernel_matrix(Decomposition(model, self.batches, self.loss))
            how = Conditions(self.num_probes, self.seed, kernel=self._kernel)
            found |= measured(others, model, self.batches, self.loss, how)
            for name in tracked:
                found[name] = self._eigenvalue(name, model)
        except NotFinite:
            self._vectors.clear()
        return found

    def _eigenvalue(self, name: str, model: nn.Module) -> Reading:
        """Look for an eigenvalue from where it was last, and in a direction at random."""
        decomposition = Decomposition(model, self.batches, self.loss)
        operator = decomposition.operator(name.partition(".")[0])
        seed = stream(self.seed, "monitor", name, self._num_measured)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(operator.size, generator=generator, dtype=torch.float64)
        rows = [drawn.to(operator.device, operator.dtype)]
        before = self._vectors.get(name)
        if before is not None and len(before) == operator.size:
            rows.insert(0, before.to(rows[0]))
        search = extreme_pair(torch.stack(rows), largest=name.endswith(_ENDS[0]))
        block = next(search)
        try:
            while True:
                block = search.send(operator.matmat(block))
        except StopIteration as end:
            pair: ExtremePair = end.value
        self.num_products += pair.num_products
        self._vectors[name] = pair.vector
        return Reading(pair.value, pair.residual)


def _is_tracked(name: str) -> bool:
    return name.endswith(_ENDS) and metric_table.parse(name).source == "spectrum"
