"""Verdicts: a limit passes or fails if all that the metric can be lies on one side of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from hessdiag.gates.limits import Limit
from hessdiag.metrics.metric import Interval
from hessdiag.metrics.metric_reading import Reading

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"


@dataclass(frozen=True)
class Finding:
    """What became of a limit.

    Attributes:
        limit: that was set.
        verdict: "pass", "fail" or "inconclusive".
        reason: why, in one clause.
        reading: of the metric; None where there is none.
        interval: that holds what is compared with the bound: the metric, or its increase.
        baseline: the metric in the baseline, or None.
    """

    limit: Limit
    verdict: str
    reason: str
    reading: Reading | None = None
    interval: Interval | None = None
    baseline: Reading | None = None


def judge(
    limit: Limit,
    reading: Reading,
    interval: Interval,
    baseline: Reading | None = None,
    baseline_interval: Interval | None = None,
) -> Finding:
    """Compare the interval of a metric, or that of its increase, with the limit.

    A pass if all of it keeps the limit, a failure if all of it breaks it, else inconclusive. The
    increase is ``c − b``, for a limit in % ``(c − b)/|b|``; its interval is that of all c and b in
    their intervals, so that it holds the increase whenever both hold (union bound).

    Args:
        limit: to be kept.
        reading: of the metric, c.
        interval: that holds c.
        baseline: b, for a limit of the increase.
        baseline_interval: that holds b.
    """
    if baseline is not None and baseline_interval is not None:
        if limit.relative and baseline.value == 0:
            reason = "the baseline is 0, of which there is no share: set a limit without %"
            return Finding(limit, FAIL, reason, reading, None, baseline)
        interval = _increase(interval, baseline_interval, relative=limit.relative)
    low, high = interval
    kept, broken = high <= limit.bound, low > limit.bound
    if limit.kind == "min":
        kept, broken = low >= limit.bound, high < limit.bound
    verdict = PASS if kept else FAIL if broken else INCONCLUSIVE
    reason = _reason(limit, interval, verdict)
    known = [of for of in (reading, baseline) if of is not None]
    if not all(map(math.isfinite, interval)) and verdict == INCONCLUSIVE:
        if any(of.lost_its_samples for of in known):
            reason = (
                "the report does not keep what its probes told, so nothing is certain: measure anew"
            )
        elif limit.parsed.end and any(of.interval is None for of in known):
            reason = (
                "the report keeps no interval of the eigenvalue, of which its residual bounds one "
                "end alone: measure anew"
            )
    return Finding(limit, verdict, reason, reading, interval, baseline)


def overall(findings: Iterable[Finding]) -> str:
    """Give the worst verdict: a failure before what is inconclusive before a pass."""
    verdicts = {finding.verdict for finding in findings}
    return next((found for found in (FAIL, INCONCLUSIVE) if found in verdicts), PASS)


def _increase(current: Interval, baseline: Interval, *, relative: bool) -> Interval:
    if not relative:
        return current[0] - baseline[1], current[1] - baseline[0]
    if baseline[0] <= 0 <= baseline[1] or not all(map(math.isfinite, (*current, *baseline))):
        return -math.inf, math.inf
    # monotone in c and, given c, in b of one sign: the extremes are at corners
    corners = [(c - b) / abs(b) for c in current for b in baseline]
    return min(corners), max(corners)


def _reason(limit: Limit, interval: Interval, verdict: str) -> str:
    subject = "the increase" if limit.kind == "max-increase" else "it"
    scale, unit = (100, " %") if limit.relative else (1, "")
    low, high = (f"{scale * end + 0.0:.4g}{unit}" for end in interval)  # without a sign of zero
    if not all(map(math.isfinite, interval)) and verdict == INCONCLUSIVE:
        return f"{subject} is not bounded: it lies between {low} and {high}"
    known = f"{subject} is {low}" if low == high else f"{subject} lies between {low} and {high}"
    return f"{known}, on both sides of the limit" if verdict == INCONCLUSIVE else known
