"""What is read from a run: a number by name."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from hessdiag.errors import InputError
from hessdiag.nets import models
from hessdiag.training import loop
from hessdiag.training.history import Epoch
from hessdiag.training.run import Run
from hessdiag.training.run_config import Config

_LATER = 0.5  # of the tracked epochs: those of a spread


def read(name: str, config: Config, epochs: Sequence[Epoch], place: Path) -> float | None:
    """Read a statistic of a finished run; None where it was not measured or is not finite.

    Args:
        name: "accuracy", after the last epoch, on the test split or else on what is held out;
            "final:METRIC" as tracked last, "log:METRIC" its logarithm, and "asinh:METRIC", which is
            ± log beyond 1;
            "log-spread:METRIC", the logarithm of its standard deviation over the later half of the
            tracked epochs; "initial:METRIC" before training; "log-gap", the logarithm
            of the perturbation gap's 2/σ² over tr H.
        config: of the run.
        epochs: what it wrote.
        place: its folder.

    Raises:
        InputError: there is no such statistic.
    """
    kind, _, metric = name.partition(":")
    last = epochs[-1]
    if kind == "accuracy":
        return last.validation_accuracy if last.test_accuracy is None else last.test_accuracy
    if kind == "initial":
        return _finite(initial(config, place).get(metric))
    tracked = [epoch.curvature for epoch in epochs if epoch.curvature]
    if kind == "log-gap":
        pair = [tracked[-1].get(key) for key in ("perturbation.trace", "hessian.trace")]
        gap, trace = (math.nan if one is None else one.value for one in pair)
        return math.log(gap / trace) if gap > 0 and trace > 0 else None
    values = [found[metric].value for found in tracked if metric in found]
    if kind == "final":
        return _finite(values[-1]) if values else None
    if kind == "log":
        return _finite(math.log(values[-1])) if values and values[-1] > 0 else None
    if kind == "asinh":
        return _finite(math.asinh(values[-1])) if values else None
    if kind == "log-spread":
        later = values[int(len(values) * _LATER) :]
        return _finite(math.log(statistics.stdev(later))) if len(set(later)) > 1 else None
    raise InputError("there is no such statistic", got=name)


def initial(config: Config, place: Path) -> dict[str, float]:
    """Measure what a run tracks at the weights that it started from."""
    data, test = loop.load_data(config)
    run = Run(config, data, test, place, torch.device("cpu"))
    assert run.tracker is not None
    models.calibrate(run.model, run.tracker.x)
    return {name: found.value for name, found in run.tracker.measure(run.model.eval()).items()}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
