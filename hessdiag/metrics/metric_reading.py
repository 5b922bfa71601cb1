"""What is known of a metric."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hessdiag.codec import Count, Number
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate, Samples


@dataclass(frozen=True)
class Reading:
    """What is known of a metric.

    Attributes:
        value: of the metric.
        error: standard error of an estimate, bound on an eigenvalue's error, 0 if exact; None
            from a single probe.
        ci95: 95 % interval of an estimate, else None.
        num_probes: behind an estimate; None if it is none, or not known.
        samples: what each probe told of the parts it is made of, by their names; None if it is no
            estimate, and in reports of hessdiag 0.1.
        interval: holds an eigenvalue but for a chance of 1e-6, which all of a run share; None if it
            is none, and in reports of hessdiag 0.1.
    """

    value: Number
    error: float | None = 0.0
    ci95: tuple[Number, Number] | None = None
    num_probes: Count | None = None
    samples: dict[str, Samples] | None = None
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.value is None:  # pyright: ignore[reportUnnecessaryComparison]
            object.__setattr__(self, "value", math.nan)
        if self.ci95 is not None:  # an end that is infinite is null in a file
            low, high = (end if isinstance(end, (int, float)) else None for end in self.ci95)
            ends = -math.inf if low is None else low, math.inf if high is None else high
            object.__setattr__(self, "ci95", ends)

    @classmethod
    def of(
        cls, found: Estimate | RitzValue | float, samples: dict[str, Samples] | None = None
    ) -> Reading:
        """Take over an estimate with its samples, an eigenvalue, or an exact number."""
        if isinstance(found, Estimate):
            return cls(found.value, found.stderr, found.ci95, found.num_probes, samples)
        if isinstance(found, RitzValue):
            return cls(found.value, found.error, interval=found.interval)
        return cls(found)

    @property
    def is_sampled(self) -> bool:
        """Whether probes estimated it."""
        return self.num_probes is not None or self.ci95 is not None or self.error is None

    @property
    def lost_its_samples(self) -> bool:
        """Whether it is an estimate in a report that does not keep what the probes told."""
        return self.is_sampled and self.samples is None
