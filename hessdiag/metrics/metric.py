"""What a metric is: name, needs, and how it is read with an interval. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hessdiag.linalg.lanczos import RitzValue
    from hessdiag.linalg.trace import Array, Estimate, Samples
    from hessdiag.metrics.metric_reading import Reading

    Chosen = Mapping[str, Samples]  # of the parts that a metric is made of, or of its layer's rows

Interval = tuple[float, float]


@dataclass(frozen=True)
class Missing:
    """A metric that a result does not hold, and why it is thought so."""

    reason: str


@dataclass(frozen=True)
class Metric:
    """A number that a result holds.

    Attributes:
        name: as the table of metrics spells it; aliases share one.
        take: reads it from a result of its source.
        source: whose result holds it: "spectrum", "sparsity", "perturbation", "sharpness", "ntk",
            "kernel", "classes", "preconditioned" or "fisher".
        parts: of the spectrum that it is made of.
        top_k: eigenvalues needed at each end.
        end: of the spectrum that an eigenvalue is counted from, 1 for the top, −1 for the bottom; 0
            where it is none.
        layer: parameter, or class, whose samples are meant; None for the whole part.
        bound: of what probes estimate: the interval that fails to hold it with probability α at
            most, from samples and α; None for the rest.
        linearised: of the same: numbers whose mean is the estimate, one a probe, to first order;
            by them two networks are compared probe by probe. None where not known.
    """

    name: str
    take: Callable[[Any], Estimate | RitzValue | float | Missing]
    source: str = "spectrum"
    parts: tuple[str, ...] = ()
    top_k: int = 0
    end: int = 0
    layer: str | None = None
    bound: Callable[[Chosen, float], Interval] | None = None
    linearised: Callable[[Chosen], Array] | None = None

    @property
    def is_sampled(self) -> bool:
        """Whether probes estimate it, the better the more of them."""
        return self.bound is not None

    @property
    def is_trace(self) -> bool:
        """Whether it is the trace of a part of a spectrum, which takes no products."""
        return self.source == "spectrum" and self.name in [f"{part}.trace" for part in self.parts]

    def read(self, result: Any) -> Reading | Missing:
        """Read it from a result of its source, which may hold less than it needs."""
        from hessdiag.metrics.metric_reading import Reading

        for name in self.parts:
            if name not in result.parts:
                return Missing(f"the report does not hold the part {name}")
        found = self.take(result)
        return found if isinstance(found, Missing) else Reading.of(found, self.samples(result))

    def samples(self, result: Any) -> dict[str, Samples] | None:
        """Choose what its estimate is made of; None if the result does not keep that."""
        from msgspec.structs import replace

        chosen: dict[str, Samples] = {}
        for name in self.parts if self.is_sampled else ():
            samples: Samples | None = result.parts[name].samples
            if samples is not None and self.layer is not None:
                samples = (samples.layers or {}).get(self.layer)
            if samples is None:
                return None
            chosen[name] = replace(samples, layers=None)
        return chosen or None

    def interval(self, reading: Reading, confidence: float) -> Interval:
        """Give what holds the metric with ``confidence``: value ± bound where nothing was sampled.

        An eigenvalue has an interval of its own. Where its confidence is below what is asked for,
        and in reports of hessdiag 0.1, only its inner end is known: a Ritz value lies between the
        eigenvalues, up to its residual. Of an estimate whose samples are not kept nothing is
        certain.
        """
        if self.bound is not None and reading.samples is not None:
            return self.bound(reading.samples, 1 - confidence)
        error = math.inf if reading.is_sampled else reading.error or 0.0
        low, high = reading.interval or (reading.value - error, reading.value + error)
        if self.end and (reading.interval is None or confidence > eigenvalue_confidence()):
            return (low, math.inf) if self.end > 0 else (-math.inf, high)
        return low, high


def eigenvalue_confidence() -> float:
    """Tell the confidence of the intervals of all eigenvalues of one part in one run."""
    from hessdiag.linalg.enclosures import CONFIDENCE

    return CONFIDENCE
