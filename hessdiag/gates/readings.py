"""Metrics read from a JSON report of any command."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, TypeGuard

from hessdiag import files
from hessdiag.errors import InputError, unknown
from hessdiag.linalg.trace import Estimate, Samples
from hessdiag.metrics import metric_table
from hessdiag.metrics.metric import Interval, Metric, Missing
from hessdiag.metrics.metric_reading import Reading
from hessdiag.metrics.norm_ratio import independent_ratio

SPECTRUM, SPARSITY, TRAIN, GATE = (
    f"hessdiag.{kind}/1" for kind in ("spectrum", "sparsity", "train", "gate")
)
"""Schemas of the reports that metrics are read from."""


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
    metric = metric_table.parse(name)
    if metric.source != "spectrum":
        return Missing("a report of a spectrum holds no such metric")
    return _of_spectrum(report, metric)


_PLACES = {
    "loss": ("loss", "value"),
    "accuracy": ("loss", "accuracy"),
    "gradient.norm": ("gradient", "norm"),
}


def _of_spectrum(report: dict[str, Any], metric: Metric) -> Reading | Missing:
    if metric.name in _PLACES:
        return _reading(_at(report, *_PLACES[metric.name]))
    parts = {part: _at(report, "parts", part) for part in metric.parts}
    if metric.name == "nme_to_gn":
        found = _ratio(parts)
    elif metric.layer is not None:
        found = _reading(_at(*parts.values(), "layers", metric.layer, "trace"))
    else:
        _, quantity, *place = metric.name.split(".")
        found = _reading(_at(*parts.values(), quantity, *map(int, place)))
    if isinstance(found, Missing) or not metric.is_sampled:
        return found
    layer = () if metric.layer is None else ("layers", metric.layer)
    samples = {name: _samples(_at(part, "samples", *layer)) for name, part in parts.items()}
    known = {name: of for name, of in samples.items() if of is not None}
    return dataclasses.replace(found, samples=known if len(known) == len(samples) else None)


def _ratio(parts: dict[str, Any]) -> Reading | Missing:
    norms: list[Estimate] = []
    for part, raw in parts.items():
        norm = _reading(_at(raw, "frobenius_norm"))
        if isinstance(norm, Missing):
            return Missing(f"{part}.frobenius_norm: {norm.reason}")
        norms.append(Estimate(norm.value, norm.error, norm.ci95, norm.num_probes or 1))
    if norms[1].value == 0:
        return Missing("the Gauss-Newton part is zero")
    return Reading.of(independent_ratio(*norms))


def _samples(raw: Any) -> Samples | None:
    """Take over what the probes told; None where it is not kept, or damaged."""
    columns = [_at(raw, key) for key in ("quadratic_forms", "squared_norms")]
    if not all(isinstance(column, list) and all(map(_is_number, column)) for column in columns):
        return None
    forms, squares = (tuple(map(float, column)) for column in columns)
    sound = len(forms) == len(squares) > 0 and min(squares) >= 0
    return Samples(forms, squares) if sound else None


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
    wanted = metric_table.parse(name)
    if isinstance(readings, dict):
        for other, entry in readings.items():
            metric = metric_table.find(str(other))
            if metric is not None and metric.name == wanted.name:
                found = _reading(entry)
                if isinstance(found, Missing) or not metric.is_sampled:
                    return found
                samples = {part: _samples(_at(entry, "samples", part)) for part in metric.parts}
                known = {part: of for part, of in samples.items() if of is not None}
                complete = len(known) == len(samples)
                return dataclasses.replace(found, samples=known if complete else None)
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
    interval = entry.get("interval")
    if not all(ends is None or _is_interval(ends) for ends in (ci95, interval)):
        return Missing("its interval is none")
    if not (probes is None or (_is_number(probes) and probes >= 1)):
        return Missing("its number of probes is none")
    return Reading(
        float(value),
        None if error is None else float(error),
        _interval(ci95),
        None if probes is None else int(probes),
        interval=_interval(interval),
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
