"""A sequential test: more probes until every limit is decided, with an error rate that holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from hessdiag.gates.limits import Limit
from hessdiag.gates.verdicts import INCONCLUSIVE, Finding, judge
from hessdiag.linalg.trace import TraceSamples
from hessdiag.metrics import spectrum_metrics as metrics
from hessdiag.metrics.spectrum_metrics import Interval, Metric, Reading

FIRST_LOOK = 32
"""Probes before the first look. Fewer may all have missed what is rare, and at small levels their
interval then covers too seldom: of gates at 95 % whose metric lies on the limit, 11 % are wrong if
they first look at 16 probes of a rank-one matrix with four equal entries, 1.6 % if at 32."""

Samples = Mapping[str, TraceSamples]


class SequentialTest:
    """Looks at sampled limits after 32, 64, 128, … probes, until each is decided.

    With M limits, look j at a limit takes the interval of level ``α/(M j(j+1))``. These levels sum
    to ``α/M`` over all looks, hence to α over all limits: however long the gate goes on, the chance
    that any of its intervals misses its metric, and so that any of its verdicts is wrong, is at
    most α (union bound). It holds as far as each interval's own coverage does, which is that of
    :func:`hessdiag.linalg.trace.estimate_mean`. Of a limit on an increase, half of each level
    belongs to the baseline's interval.

    Args:
        limits: on sampled metrics, each with its metric in the baseline if it needs one.
        confidence: 1 − α.
        max_probes: when this many are taken, the last look is made.
        is_late: says whether the time is spent; then the last look is made as well.
    """

    def __init__(
        self,
        limits: Sequence[tuple[Limit, Reading | None]],
        *,
        confidence: float,
        max_probes: int,
        is_late: Callable[[], bool] = lambda: False,
    ) -> None:
        self.alpha = (1 - confidence) / max(len(limits), 1)
        self.max_probes, self.is_late = max_probes, is_late
        self.findings: dict[Limit, Finding] = {}
        self._baselines = dict(limits)
        self._num_looks = dict.fromkeys(self._baselines, 0)
        self._num_probes = dict.fromkeys(self._baselines, 0)

    def __call__(self, part: str, samples: Samples) -> bool:
        """Look at the limits whose turn it is; tell whether ``part`` has been sampled enough."""
        late = self.is_late()
        open_limits = [limit for limit in self._baselines if not self._is_decided(limit)]
        for limit in open_limits:
            known = min(len(samples[part]) for part in _metric(limit).parts)
            due = known >= FIRST_LOOK << self._num_looks[limit] or known >= self.max_probes or late
            if due and known > self._num_probes[limit]:
                self._num_probes[limit] = known
                self._look(limit, samples)
        waiting = {
            part
            for limit in open_limits
            if not self._is_decided(limit)
            for part in _metric(limit).parts
        }
        return late or part not in waiting

    def _is_decided(self, limit: Limit) -> bool:
        return limit in self.findings and self.findings[limit].verdict != INCONCLUSIVE

    def _look(self, limit: Limit, samples: Samples) -> None:
        self._num_looks[limit] += 1
        look, baseline = self._num_looks[limit], self._baselines[limit]
        level, other = self.alpha, None
        if baseline is not None:
            level = self.alpha / 2
            other = baseline.interval(1 - level)
        reading, interval = estimate(samples, _metric(limit), 1 - level / (look * (look + 1)))
        if reading is not None:
            self.findings[limit] = judge(limit, reading, interval, baseline, other)


def estimate(
    samples: Samples, metric: Metric, confidence: float
) -> tuple[Reading | None, Interval]:
    """Estimate a sampled metric, and the interval that holds it with ``confidence``.

    Args:
        samples: of all parts that the metric needs.
        metric: a trace, a Frobenius norm, a layer's trace, or the ratio ``nme_to_gn``.
        confidence: two-sided; for the ratio, the intervals of both norms share what is left of it.

    Returns:
        The reading, None for a ratio whose denominator is zero; and the interval.
    """
    if metric.quantity == "nme_to_gn":
        half = (1 + confidence) / 2
        (nme, above), (gn, below) = (_norm(samples[part], half) for part in metric.parts)
        found = metrics.ratio(nme, gn)
        return found, (-math.inf, math.inf) if found is None else metrics.quotient(above, below)
    sampled = samples[metric.parts[0]]
    if metric.quantity == "frobenius_norm":
        return _norm(sampled, confidence)
    if metric.layer is not None:
        reading, wide = (sampled.layer_traces(c)[metric.layer] for c in (0.95, confidence))
    else:
        reading, wide = sampled.trace(), sampled.trace(confidence)
    return Reading.of(reading), wide.ci95 or (-math.inf, math.inf)


def _norm(samples: TraceSamples, confidence: float) -> tuple[Reading, Interval]:
    wide = samples.frobenius_norm(confidence)
    return Reading.of(samples.frobenius_norm()), wide.ci95 or (-math.inf, math.inf)


def _metric(limit: Limit) -> Metric:
    metric = metrics.parse(limit.metric)
    assert metric is not None
    return metric
