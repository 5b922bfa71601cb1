"""Differences of two numbers that the same seeds gave, with Student's interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Annotated

from msgspec import Meta, Struct
from scipy import special

from hessdiag.codec import Count


class Difference(Struct, frozen=True):
    """The mean of a difference over seeds, which both of its sides share.

    Attributes:
        mean: of the differences.
        stderr: its standard error; None from a single seed.
        interval: Student's, of the confidence asked for, 95 % unless said; None likewise.
        count: seeds.
    """

    mean: float
    stderr: Annotated[float, Meta(ge=0)] | None
    interval: tuple[float, float] | None
    count: Count

    @classmethod
    def of(cls, values: Iterable[float], confidence: float = 0.95) -> Difference | None:
        """Summarise one difference a seed; None of none."""
        known = list(values)
        if not known:
            return None
        mean, count = statistics.fmean(known), len(known)
        if count == 1:
            return cls(mean, None, None, 1)
        stderr = statistics.stdev(known) / math.sqrt(count)
        half = float(special.stdtrit(count - 1, (1 + confidence) / 2)) * stderr
        return cls(mean, stderr, (mean - half, mean + half), count)

    @classmethod
    def between(
        cls, values: Mapping[int, float | None], others: Mapping[int, float | None]
    ) -> Difference | None:
        """Subtract the other number of each seed that knows both."""
        pairs = ((values[seed], others[seed]) for seed in values if seed in others)
        return cls.of(a - b for a, b in pairs if a is not None and b is not None)
