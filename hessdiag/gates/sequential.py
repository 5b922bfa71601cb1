"""A sequential test: more probes until every limit is decided, with an error rate that holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from hessdiag.gates.limits import Limit
from hessdiag.gates.verdicts import INCONCLUSIVE, Finding, judge
from hessdiag.linalg.trace import Samples, TraceSamples
from hessdiag.metrics.look import Look, Sampled
from hessdiag.metrics.metric import Missing
from hessdiag.metrics.metric_reading import Reading

FIRST_LOOK = 32
"""Probes before the first look, at least; see :func:`first_look`."""


class SequentialTest:
    """Looks at sampled limits after 32, 64, 128, … probes, until each is decided.

    The α is shared evenly by the limits and, of each, by all looks that the budget allows; the
    intervals of a look miss their metric with the chance they promise, however few the probes (see
    :mod:`hessdiag.linalg.quadratic_forms`). So the chance that any conclusive verdict is wrong is
    at most α (union bound). Of a limit on an increase, half of each level belongs to the baseline.

    Args:
        limits: on sampled metrics, each with its metric in the baseline if it needs one.
        confidence: 1 − α.
        max_probes: when this many are taken, the last look is made.
        is_late: says whether the time is spent, upon which the last look is made as well; None
            where time does not matter.
    """

    def __init__(
        self,
        limits: Sequence[tuple[Limit, Reading | None]],
        *,
        confidence: float,
        max_probes: int,
        is_late: Callable[[], bool] | None = None,
    ) -> None:
        share = (1 - confidence) / max(len(limits), 1)
        self.first, self.max_probes, self.is_late = first_look(share), max_probes, is_late
        doublings = math.ceil(math.log2(max(max_probes / self.first, 1)))
        self.num_looks = doublings + 1 + (is_late is not None)
        self.alpha = share / self.num_looks
        self.findings: dict[Limit, Finding] = {}
        self._baselines = dict(limits)
        self._looks = dict.fromkeys(self._baselines, 0)
        self._seen = dict.fromkeys(self._baselines, 0.0)

    def __call__(self, part: str, samples: Mapping[str, TraceSamples]) -> bool:
        """Look at the limits whose turn it is; tell whether ``part`` has been sampled enough."""
        late = self.is_late is not None and len(samples[part]) >= FIRST_LOOK and self.is_late()
        due = [limit for limit in self._open() if self._is_due(limit, samples, late=late)]
        if due:
            wanted = {name for limit in due for name in limit.parsed.parts}
            look = Look({name: Sampled(samples[name].freeze()) for name in wanted})
            for limit in due:
                self._look(limit, look)
        waiting = {name for limit in self._open() for name in limit.parsed.parts}
        return late or part not in waiting or samples[part].exact is not None

    def looks(self) -> Iterator[int]:
        """Give the number of probes of each look in turn, until every limit is decided."""
        count = min(self.first, self.max_probes)
        yield count
        while self._open() and count < self.max_probes:
            if self.is_late is not None and self.is_late():
                return
            count = min(2 * count, self.max_probes)
            yield count

    def judge(self, limit: Limit, reading: Reading | Missing) -> None:
        """Take what a look of :meth:`looks` told of a limit; what is missing stays so."""
        if isinstance(reading, Missing):
            self._baselines.pop(limit, None)
        elif limit in self._open():
            self._judge(limit, reading)

    def _open(self) -> list[Limit]:
        return [
            limit
            for limit in self._baselines
            if limit not in self.findings or self.findings[limit].verdict == INCONCLUSIVE
        ]

    def _is_due(self, limit: Limit, samples: Mapping[str, TraceSamples], *, late: bool) -> bool:
        known = min(_num_probes(samples[part]) for part in limit.parsed.parts)
        if known <= self._seen[limit] or self._looks[limit] == self.num_looks:
            return False
        return late or known >= min(self.first << self._looks[limit], self.max_probes)

    def _look(self, limit: Limit, look: Look) -> None:
        metric = limit.parsed
        self._looks[limit] += 1
        self._seen[limit] = min(_num_probes(look.parts[part].samples) for part in metric.parts)
        reading = metric.read(look)
        if not isinstance(reading, Missing):
            self._judge(limit, reading)

    def _judge(self, limit: Limit, reading: Reading) -> None:
        metric, baseline = limit.parsed, self._baselines[limit]
        if baseline is None:
            interval = metric.interval(reading, 1 - self.alpha)
            self.findings[limit] = judge(limit, reading, interval)
        else:
            known, before = (metric.interval(of, 1 - self.alpha / 2) for of in (reading, baseline))
            self.findings[limit] = judge(limit, reading, known, baseline, before)


def _num_probes(samples: TraceSamples | Samples) -> float:
    """Count the probes that tell of a part; what is exact is known by as many as there may be."""
    return len(samples) if samples.exact is None else math.inf


def first_look(alpha: float) -> int:
    """Choose the probes before the first look: as many as tell anything at level ``alpha``."""
    least = 6 * math.log(1 / alpha)
    return FIRST_LOOK << max(0, math.ceil(math.log2(least / FIRST_LOOK)))


def forms_tell(alpha: float, max_probes: int) -> bool:
    """Tell whether forms alone, without squared norms, bound a trace well within the budget."""
    return max_probes >= 4 * math.log(6 / alpha) / math.log(9 / 8)
