"""The section of a gate: what was held against what, and with which outcome."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hessdiag.reports.html.section import Section, badge, subject
from hessdiag.show.markup import (
    Markup,
    block,
    estimate,
    number,
    percent,
    table,
    tag,
)

_SIGNS = {"max": "≤", "min": "≥", "max-increase": "increase ≤"}


def gate(payload: dict[str, Any]) -> Section:
    """Lay out ``hessdiag.gate/1``."""
    findings, readings = payload["findings"], payload["readings"]
    blocks: list[Markup] = []
    if findings:
        header = ["metric", "verdict", "limit", "measured", "baseline", "reason"]
        rows = [_finding(found) for found in findings]
        caption = "Each limit with its verdict; ± is a standard error, or a bound on the error"
        blocks.append(block("Limits", table(caption, header, rows, words=len(header))))
    if readings:
        rows = [[tag("code", name), estimate(of, "error")] for name, of in readings.items()]
        blocks.append(block("Readings", table("All that was read", ["metric", "value"], rows)))
    counts = Counter(str(found["verdict"]) for found in findings)
    named = payload["model"]["name"] or payload["subject"] is None
    return Section(
        "Gate",
        subject(payload) if named else str(payload["subject"]),
        [(name, str(times)) for name, times in counts.items()],
        blocks,
        str(payload["verdict"]),
    )


def _finding(found: dict[str, Any]) -> list[object]:
    bound = percent(found["bound"]) if found["relative"] else number(found["bound"])
    return [
        tag("code", found["metric"]),
        badge(str(found["verdict"])),
        f"{_SIGNS.get(found['kind'], found['kind'])} {bound}",
        estimate(found["reading"], "error"),
        estimate(found["baseline"], "error"),
        found["reason"],
    ]
