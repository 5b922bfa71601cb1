"""Metrics as the results of commands hold them, fresh or stored."""

from __future__ import annotations

import math

from hessdiag.gates.gate_result import GateReport
from hessdiag.metrics import metric_table
from hessdiag.metrics.metric import Metric, Missing
from hessdiag.metrics.metric_reading import Reading
from hessdiag.results import Result
from hessdiag.sparsities.sparsity_result import Sparsity
from hessdiag.spectra.spectrum_result import Report
from hessdiag.training.train_result import TrainReport

KINDS = (Report, Sparsity, TrainReport, GateReport)
"""Results that metrics are read from."""


def read(result: Result, name: str) -> Reading | Missing:
    """Read a metric; of a run of training, as it is after the last epoch.

    Args:
        result: one of KINDS.
        name: any of the metric's.

    Raises:
        InputError: there is no such metric.
    """
    reading = _find(result, metric_table.parse(name))
    if isinstance(reading, Reading) and not math.isfinite(reading.value):
        return Missing("the report holds none, or null")
    return reading


def _find(result: Result, metric: Metric) -> Reading | Missing:
    if isinstance(result, Report):
        if metric.source == "spectrum":
            return metric.read(result)
        lacking = Missing("this report of a spectrum holds no such metric")
        return result.metrics.get(metric.name, lacking)
    if isinstance(result, Sparsity):
        if metric.source != "sparsity":
            return Missing("a report of sparsity holds no such metric")
        if len(result.activations) != 1:
            return Missing("the report is on several activations")
        networks = result.activations[0].networks
        seen = networks.get("trained") or networks.get("initial")
        return metric.read(seen.total) if seen else Missing("the report is on no network")
    noted = result.readings if isinstance(result, GateReport) else {}
    if isinstance(result, TrainReport):
        if not result.epochs:
            return Missing("the run has no epoch")
        last = result.epochs[-1]
        noted = {"loss": Reading(last.train_loss), **last.curvature}
        tested = last.validation_accuracy if last.test_accuracy is None else last.test_accuracy
        if tested is not None:
            noted["accuracy"] = Reading(tested)
    for other, reading in noted.items():
        same = metric_table.find(other)
        if same is not None and same.name == metric.name:
            return reading
    return Missing("it was not measured")
