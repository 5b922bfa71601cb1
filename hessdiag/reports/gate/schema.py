"""The report of a gate as JSON, schema ``hessdiag.gate/1``."""

from __future__ import annotations

from typing import Any

import msgspec

from hessdiag.gates.gate_run import GateReport
from hessdiag.gates.readings import GATE
from hessdiag.gates.verdicts import Finding
from hessdiag.metadata import Provenance
from hessdiag.metrics.metric_reading import Reading
from hessdiag.reports.payload import finite, origin


def gate_json(
    report: GateReport, subject: str | None = None, provenance: Provenance | None = None
) -> dict[str, Any]:
    """Lay a gate out as ``hessdiag.gate/1``; numbers that are not finite are None.

    Args:
        report: to lay out.
        subject: path of what was looked at.
        provenance: of a checkpoint.
    """
    return finite(
        {
            **origin(
                GATE,
                provenance,
                num_parameters=report.num_parameters,
                num_samples=report.num_samples,
            ),
            "subject": subject,
            "verdict": report.verdict,
            "settings": {
                "confidence": report.confidence,
                "max_probes": report.max_probes,
                "max_seconds": report.max_seconds,
                "seed": report.seed,
            },
            "findings": [_finding(finding) for finding in report.findings],
            "readings": {name: _reading(found) for name, found in report.readings.items()},
            "cost": {"seconds": report.seconds, "num_probes": report.num_probes},
            "notes": notes(report),
        }
    )


def notes(report: GateReport) -> list[str]:
    """List what qualifies the verdicts."""
    found: list[str] = []
    if not report.findings:
        found.append("there are no limits, so that the gate passes")
    elif report.max_probes is None:
        found.append("nothing was measured: the report's own samples were judged")
    if any(finding.interval is None for finding in report.findings):
        found.append("what is missing, or has no interval, is null and its finding says why")
    return found


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "metric": finding.limit.metric,
        "kind": finding.limit.kind,
        "bound": finding.limit.bound,
        "relative": finding.limit.relative,
        "verdict": finding.verdict,
        "reason": finding.reason,
        "reading": _reading(finding.reading, with_samples=False),
        "baseline": _reading(finding.baseline, with_samples=False),
        "interval": finding.interval,
    }


def _reading(reading: Reading | None, *, with_samples: bool = True) -> dict[str, Any] | None:
    if reading is None:
        return None
    fields = msgspec.to_builtins(reading)
    return fields if with_samples else {**fields, "samples": None}  # once is enough
