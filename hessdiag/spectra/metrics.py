"""Metrics by name, such as ``nme.trace`` or ``hessian.lambda_max``, read from a report."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hessdiag.curvature.decomposition import PARTS
from hessdiag.errors import InputError
from hessdiag.linalg.trace import Estimate
from hessdiag.spectra.report import Report

FORMS = "<part>.trace, .frobenius_norm, .lambda_max, .lambda_min, .top.<i> or .bottom.<i>"
"""What names of metrics look like; the parts are hessian, gn and nme."""

_NAME = re.compile(
    rf"({'|'.join(PARTS)})\.(trace|frobenius_norm|lambda_max|lambda_min|(?:top|bottom)\.\d{{1,4}})"
)
_ALIASES = {"lambda_max": "top.0", "lambda_min": "bottom.0"}


@dataclass(frozen=True)
class Metric:
    """A number of one part's spectrum.

    Attributes:
        part: "hessian", "gn" or "nme".
        quantity: "trace", "frobenius_norm", "top" or "bottom".
        index: of an eigenvalue, from its end of the spectrum.
    """

    part: str
    quantity: str
    index: int = 0


@dataclass(frozen=True)
class Reading:
    """What is known of a metric.

    Attributes:
        value: of the metric.
        error: standard error of an estimate, bound on an eigenvalue's error, 0 if exact; None
            from a single probe.
        ci95: 95 % interval of an estimate, else None.
    """

    value: float
    error: float | None = 0.0
    ci95: tuple[float, float] | None = None

    @classmethod
    def of(cls, estimate: Estimate) -> Reading:
        """Take over an estimate."""
        return cls(estimate.value, estimate.stderr, estimate.ci95)

    def times(self, factor: float) -> Reading:
        """Multiply by a number above 0."""
        return Reading(
            factor * self.value,
            None if self.error is None else factor * self.error,
            self.ci95 and (factor * self.ci95[0], factor * self.ci95[1]),
        )


def parse(name: str) -> Metric | None:
    """Tell which metric of a spectrum ``name`` is; None if it is none."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    part, quantity = found.groups()
    kind, _, index = _ALIASES.get(quantity, quantity).partition(".")
    return Metric(part, kind, int(index or 0))


def settings(metrics: Iterable[Metric]) -> dict[str, Any]:
    """Choose the least settings of a spectrum that holds all ``metrics``."""
    chosen = list(metrics)
    wanted = {metric.part for metric in chosen}
    ends = [metric.index + 1 for metric in chosen if metric.quantity in ("top", "bottom")]
    return {
        "parts": tuple(part for part in PARTS if part in wanted),
        "top_k": max(ends, default=0),
        "density": False,
    }


def read(report: Report, metric: Metric) -> Reading:
    """Read a metric from a report that holds it.

    Raises:
        InputError: the network has fewer eigenvalues.
    """
    part = report.parts[metric.part]
    if metric.quantity in ("top", "bottom"):
        values = getattr(part, metric.quantity)
        if metric.index >= len(values):
            raise InputError(
                f"there is no eigenvalue {metric.quantity}.{metric.index} of {metric.part}",
                got=f"{len(values)} of them",
            )
        found = values[metric.index]
        return Reading(found.value, found.residual)
    return Reading.of(getattr(part, metric.quantity))
