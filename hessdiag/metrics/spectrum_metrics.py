"""Metrics by name, such as ``nme.trace`` or ``hessian.lambda_max``, read from a report."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from scipy import stats

from hessdiag.errors import InputError
from hessdiag.linalg.trace import Estimate
from hessdiag.parts import PARTS
from hessdiag.spectra.spectrum_result import Report

Interval = tuple[float, float]

NAMES = (
    *(
        f"{part}.{quantity}"
        for part in PARTS
        for quantity in ("trace", "frobenius_norm", "lambda_max", "lambda_min")
    ),
    *("nme_to_gn", "loss", "accuracy", "gradient.norm"),
)
"""Metrics of every spectrum."""
FORMS = "and <part>.top.<i>, <part>.bottom.<i>, <part>.layers.<parameter>.trace"
"""What names of the other metrics look like."""

_OF_A_PART = re.compile(
    rf"({'|'.join(PARTS)})\."
    r"(?:(trace|frobenius_norm|lambda_max|lambda_min|(?:top|bottom)\.\d{1,4})|layers\.(.+)\.trace)"
)
_OF_THE_REPORT = {"loss": "loss", "accuracy": "accuracy", "gradient.norm": "gradient_norm"}
_ALIASES = {"lambda_max": "top.0", "lambda_min": "bottom.0"}


@dataclass(frozen=True)
class Metric:
    """A number of a spectrum.

    Attributes:
        parts: those whose spectrum it is taken from: one; two for the ratio ``nme_to_gn``; none for
            loss, accuracy and the gradient's norm.
        quantity: "trace", "frobenius_norm", "top", "bottom", "nme_to_gn", "loss", "accuracy" or
            "gradient_norm".
        index: of an eigenvalue, from its end of the spectrum.
        layer: parameter whose diagonal block is meant; None for the whole part.
    """

    parts: tuple[str, ...]
    quantity: str
    index: int = 0
    layer: str | None = None

    @property
    def is_eigenvalue(self) -> bool:
        """Whether Lanczos finds it."""
        return self.quantity in ("top", "bottom")

    @property
    def is_sampled(self) -> bool:
        """Whether probes estimate it."""
        return bool(self.parts) and not self.is_eigenvalue


@dataclass(frozen=True)
class Reading:
    """What is known of a metric.

    Attributes:
        value: of the metric.
        error: standard error of an estimate, bound on an eigenvalue's error, 0 if exact; None
            from a single probe.
        ci95: 95 % interval of an estimate, else None.
        num_probes: behind an estimate; None if it is none, or not known.
    """

    value: float
    error: float | None = 0.0
    ci95: Interval | None = None
    num_probes: int | None = None

    @classmethod
    def of(cls, estimate: Estimate) -> Reading:
        """Take over an estimate."""
        return cls(estimate.value, estimate.stderr, estimate.ci95, estimate.num_probes)

    def times(self, factor: float) -> Reading:
        """Multiply by a number above 0."""
        return dataclasses.replace(
            self,
            value=factor * self.value,
            error=None if self.error is None else factor * self.error,
            ci95=self.ci95 and (factor * self.ci95[0], factor * self.ci95[1]),
        )

    @property
    def is_sampled(self) -> bool:
        """Whether probes estimated it."""
        return self.ci95 is not None or self.error is None

    def interval(self, confidence: float) -> Interval:
        """Give the interval that holds the metric: value ± bound where nothing was sampled.

        The arms of a stored 95 % interval are stretched by the ratio of Student's quantiles, so
        that they keep its skewness; with two probes assumed where their number is not known.
        """
        if self.ci95 is None:
            error = math.inf if self.error is None else self.error
            return self.value - error, self.value + error
        freedom = max(self.num_probes or 2, 2) - 1
        stretch = 1.0
        if confidence != 0.95:
            stretch = stats.t.ppf((1 + confidence) / 2, freedom) / stats.t.ppf(0.975, freedom)
            stretch = float(stretch)  # which overflows without a warning, unlike numpy's
        low, high = self.ci95
        return (
            self.value - stretch * (self.value - low),
            self.value + stretch * (high - self.value),
        )


def parse(name: str) -> Metric | None:
    """Tell which metric of a spectrum ``name`` is; None if it is none."""
    if name == "nme_to_gn":
        return Metric(("nme", "gn"), name)
    if name in _OF_THE_REPORT:
        return Metric((), _OF_THE_REPORT[name])
    found = _OF_A_PART.fullmatch(name)
    if found is None:
        return None
    part, quantity, layer = found.groups()
    if layer is not None:
        return Metric((part,), "trace", layer=layer)
    kind, _, index = _ALIASES.get(quantity, quantity).partition(".")
    return Metric((part,), kind, int(index or 0))


def settings(metrics: Iterable[Metric]) -> dict[str, Any]:
    """Choose the least settings of a spectrum that holds all ``metrics``."""
    chosen = list(metrics)
    wanted = {part for metric in chosen for part in metric.parts}
    return {
        "parts": tuple(part for part in PARTS if part in wanted) or ("gn",),
        "top_k": max((metric.index + 1 for metric in chosen if metric.is_eigenvalue), default=0),
        "density": False,
        "per_layer": any(metric.layer is not None for metric in chosen),
    }


def read(report: Report, metric: Metric) -> Reading | None:
    """Read a metric from a report that was computed for it; None for an accuracy of no classes.

    Raises:
        InputError: the network has fewer eigenvalues, or no such layer.
    """
    if not metric.parts:
        value = getattr(report, metric.quantity)
        return None if value is None else Reading(value)
    if metric.quantity == "nme_to_gn":
        norms = [Reading.of(report.parts[part].frobenius_norm) for part in metric.parts]
        return ratio(*norms)
    part = report.parts[metric.parts[0]]
    if metric.layer is not None:
        layers = part.layers or {}
        if metric.layer not in layers:
            raise InputError("there is no such layer", got=metric.layer, wanted=", ".join(layers))
        return Reading.of(layers[metric.layer])
    if not metric.is_eigenvalue:
        return Reading.of(getattr(part, metric.quantity))
    values = getattr(part, metric.quantity)
    if metric.index >= len(values):
        raise InputError(
            f"there is no eigenvalue {metric.quantity}.{metric.index} of {metric.parts[0]}",
            got=f"{len(values)} of them",
        )
    return Reading(values[metric.index].value, values[metric.index].residual)


def ratio(nme: Reading, gn: Reading) -> Reading | None:
    """Divide the norms, ‖N‖_F/‖G‖_F; None where G is zero.

    Both intervals hold together with 95 % if each does with 97.5 % (union bound); the relative
    standard errors are added, which bounds that of the ratio however the norms depend on each
    other.
    """
    if gn.value == 0:
        return None
    value = nme.value / gn.value
    if nme.error is None or gn.error is None or nme.ci95 is None or gn.ci95 is None:
        return Reading(value, None, None, nme.num_probes)
    error = nme.error / gn.value + value * gn.error / gn.value
    interval = quotient(nme.interval(0.975), gn.interval(0.975))
    probes = min(nme.num_probes or 2, gn.num_probes or 2)
    return Reading(value, error, interval, probes)


def quotient(over: Interval, under: Interval) -> Interval:
    """Divide intervals of numbers that are not negative."""
    low, high = max(over[0], 0.0), max(over[1], 0.0)
    return low / under[1], high / under[0] if under[0] > 0 else math.inf
