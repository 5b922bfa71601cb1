"""What a gate says; the fields are those of its JSON, ``hessdiag.gate/1``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from hessdiag.codec import Count, Number, Whole
from hessdiag.gates.limits import Limit
from hessdiag.gates.verdicts import Finding, overall
from hessdiag.metrics.metric_reading import Reading
from hessdiag.results import CheckpointOrigin, DataOrigin, Measured

Outcome = Literal["pass", "fail", "inconclusive"]


class Judgement(Struct, frozen=True):
    """A limit with its verdict.

    Attributes:
        metric: that is limited.
        kind: "max", "min" or "max-increase".
        bound: of the metric or its increase.
        relative: whether the increase is a share of the baseline.
        verdict: "pass", "fail" or "inconclusive".
        reason: why, in one clause.
        reading: of the metric; None where there is none.
        baseline: the metric in the baseline, or None.
        interval: that holds what is compared with the bound.
    """

    metric: str
    kind: str
    bound: float
    relative: bool
    verdict: Outcome
    reason: str
    reading: Reading | None = None
    baseline: Reading | None = None
    interval: tuple[Number, Number] | None = None

    @classmethod
    def of(cls, found: Finding) -> Judgement:
        """Take a finding over; what each probe told is kept with the readings alone."""
        reading, baseline = (
            of and dataclasses.replace(of, samples=None) for of in (found.reading, found.baseline)
        )
        limit, verdict = found.limit, found.verdict
        return cls(
            metric=limit.metric,
            kind=limit.kind,
            bound=limit.bound,
            relative=limit.relative,
            verdict=verdict,  # pyright: ignore[reportArgumentType]
            reason=found.reason,
            reading=reading,
            baseline=baseline,
            interval=found.interval,
        )

    @property
    def limit(self) -> Limit:
        """The limit as it was set."""
        return Limit(self.kind, self.metric, self.bound, self.relative)


class GateSettings(Struct, frozen=True):
    """How a gate was to judge.

    Attributes:
        confidence: 1 − α, of all sampled verdicts together.
        max_probes: budget; None where nothing was measured.
        max_seconds: budget, or None.
        seed: of the probes; None where nothing was measured.
    """

    confidence: float = 0.95
    max_probes: Count | None = None
    max_seconds: float | None = None
    seed: Whole | None = None


class GateCost(Struct, frozen=True):
    """What a gate took: wall-clock time, and probes."""

    seconds: float = 0.0
    num_probes: Count = 0


class GateReport(Measured, frozen=True, kw_only=True, tag="hessdiag.gate/1"):
    """What became of all limits.

    Attributes:
        subject: path of what was looked at, or None.
        verdict: the worst one: "fail" before "inconclusive" before "pass".
        settings: how it was to judge.
        findings: one a limit, in their order.
        readings: metrics that were measured, by name; empty for a gate on a stored report.
        cost: time and probes.
        notes: what qualifies the verdicts.
    """

    subject: str | None = None
    verdict: Outcome
    settings: GateSettings
    findings: tuple[Judgement, ...] = ()
    readings: dict[str, Reading] = msgspec.field(default_factory=dict[str, Reading])
    cost: GateCost = GateCost()
    notes: tuple[str, ...] = ()

    @classmethod
    def judged(
        cls,
        findings: Iterable[Finding],
        settings: GateSettings,
        readings: dict[str, Reading] | None = None,
        cost: GateCost = GateCost(),  # noqa: B008  # frozen
        *,
        num_parameters: int | None = None,
        num_samples: int | None = None,
    ) -> GateReport:
        """Put findings together, with the verdict and the notes that follow from them."""
        known = tuple(findings)
        verdict: Any = overall(known)
        notes: list[str] = []
        if not known:
            notes.append("there are no limits, so that the gate passes")
        elif settings.max_probes is None:
            notes.append("nothing was measured: the report's own samples were judged")
        if any(finding.interval is None for finding in known):
            notes.append("what is missing, or has no interval, is null and its finding says why")
        return cls(
            checkpoint=CheckpointOrigin(num_parameters=num_parameters),
            data=DataOrigin(num_samples=num_samples),
            verdict=verdict,
            settings=settings,
            findings=tuple(map(Judgement.of, known)),
            readings=readings or {},
            cost=cost,
            notes=tuple(notes),
        )

    def on(self, subject: str) -> GateReport:
        """Name what was looked at."""
        return replace(self, subject=subject)

    @property
    def confidence(self) -> float:
        """1 − α, of all sampled verdicts together."""
        return self.settings.confidence

    @property
    def max_probes(self) -> int | None:
        """Budget of probes; None where nothing was measured."""
        return self.settings.max_probes

    @property
    def num_probes(self) -> int:
        """Probes that were taken."""
        return self.cost.num_probes

    @property
    def seconds(self) -> float:
        """Wall-clock time."""
        return self.cost.seconds
