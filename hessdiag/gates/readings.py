"""Metrics read from a JSON report of any command."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, TypeGuard

from hessdiag import files
from hessdiag.errors import InputError, unknown
from hessdiag.metrics import spectrum_metrics as metrics
from hessdiag.metrics.spectrum_metrics import Interval, Metric, Reading

SPECTRUM, SPARSITY, TRAIN, GATE = (
    f"hessdiag.{kind}/1" for kind in ("spectrum", "sparsity", "train", "gate")
)
"""Schemas of the reports that metrics are read from."""


@dataclass(frozen=True)
class Missing:
    """A metric that a report does not hold, and why it is thought so."""

    reason: str


def load(path: str, kind: str = "report") -> dict[str, Any]:
    """Read a report.

    Raises:
        InputError: it cannot be read, or is none of ours.
    """
    try:
        found: Any = json.loads(files.read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)[:160] or repr(error)
        raise InputError(f"the {kind} {path} cannot be read", got=reason) from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema not in (SPECTRUM, SPARSITY, TRAIN, GATE):
        raise unknown(
            f"schema of the {kind} {path}", str(schema)[:80], (SPECTRUM, SPARSITY, TRAIN, GATE)
        )
    return found


def read(report: dict[str, Any], name: str) -> Reading | Missing:
    """Read a metric; of a run of training, as it is after the last epoch.

    Args:
        report: as loaded.
        name: of a metric that some report knows.
    """
    if report["schema"] == SPARSITY:
        return _of_sparsity(report, name)
    if report["schema"] == TRAIN:
        return _of_training(report, name)
    if report["schema"] == GATE:
        return _among(_at(report, "readings"), name)
    metric = metrics.parse(name)
    if metric is None:
        return Missing("a report of a spectrum holds no such metric")
    return _of_spectrum(report, metric)


def _of_spectrum(report: dict[str, Any], metric: Metric) -> Reading | Missing:
    if metric.quantity == "nme_to_gn":
        norms = [_reading(_at(report, "parts", part, "frobenius_norm")) for part in metric.parts]
        for part, norm in zip(metric.parts, norms, strict=True):
            if isinstance(norm, Missing):
                return Missing(f"{part}.frobenius_norm: {norm.reason}")
        nme, gn = (norm for norm in norms if isinstance(norm, Reading))
        return metrics.ratio(nme, gn) or Missing("the Gauss-Newton part is zero")
    if not metric.parts:
        place = ("gradient", "norm") if metric.quantity == "gradient_norm" else ("loss", "value")
        place = ("loss", "accuracy") if metric.quantity == "accuracy" else place
        return _reading(_at(report, *place))
    part = _at(report, "parts", metric.parts[0])
    if metric.layer is not None:
        return _reading(_at(part, "layers", metric.layer, "trace"))
    if metric.is_eigenvalue:
        return _reading(_at(part, metric.quantity, metric.index))
    return _reading(_at(part, metric.quantity))


def _of_sparsity(report: dict[str, Any], name: str) -> Reading | Missing:
    group, _, share = name.partition(".")
    if group != "sparsity":
        return Missing("a report of sparsity holds no such metric")
    if _at(report, "activations", 1) is not None:
        return Missing("the report is on several activations")
    network = _at(report, "activations", 0, "trained") or _at(report, "activations", 0, "initial")
    return _reading(_at(network, "total", share))


def _of_training(report: dict[str, Any], name: str) -> Reading | Missing:
    last = _at(report, "epochs", -1)
    if name == "loss":
        return _reading(_at(last, "train_loss"))
    if name == "accuracy":
        tested = _at(last, "test_accuracy")
        return _reading(_at(last, "validation_accuracy") if tested is None else tested)
    return _among(_at(last, "curvature"), name)


def _among(readings: Any, name: str) -> Reading | Missing:
    """Find a metric by any of its names."""
    wanted = metrics.parse(name) or name
    if isinstance(readings, dict):
        for other, entry in readings.items():
            if (metrics.parse(other) or other) == wanted:
                return _reading(entry)
    return Missing("it was not measured")


def _reading(entry: Any) -> Reading | Missing:
    """Take over a number, an eigenvalue, an estimate, or what a run or a gate noted."""
    if entry is None:
        return Missing("the report holds none, or null")
    if not isinstance(entry, dict):
        return Reading(float(entry)) if _is_number(entry) else Missing("it is no finite number")
    value = entry.get("value")
    if value is None:
        return Missing("the report holds null")
    error = entry.get(next((key for key in ("stderr", "residual") if key in entry), "error"))
    ci95, probes = entry.get("ci95"), entry.get("num_probes")
    if not (_is_number(value) and (error is None or (_is_number(error) and error >= 0))):
        return Missing("its value or its error is no finite number")
    if not (ci95 is None or _is_interval(ci95)):
        return Missing("its interval is none")
    if not (probes is None or (_is_number(probes) and probes >= 1)):
        return Missing("its number of probes is none")
    return Reading(
        float(value),
        None if error is None else float(error),
        _interval(ci95),
        None if probes is None else int(probes),
    )


def _interval(ends: Any) -> Interval | None:
    if ends is None:
        return None
    low, high = ends
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def _is_interval(ends: Any) -> bool:
    """Tell two numbers in order; null for an end that is infinite."""
    if not (isinstance(ends, list) and len(ends) == 2):
        return False
    if not all(end is None or _is_number(end) for end in ends):
        return False
    return None in ends or ends[0] <= ends[1]


def _is_number(value: Any) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _at(report: Any, *path: str | int) -> Any:
    """Follow keys and indices; None where one leads nowhere."""
    for key in path:
        if isinstance(key, str) and isinstance(report, dict):
            report = report.get(key)
        elif isinstance(key, int) and isinstance(report, list):
            report = report[key] if -len(report) <= key < len(report) else None
        else:
            return None
    return report
