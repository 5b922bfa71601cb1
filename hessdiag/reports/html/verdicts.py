"""The sections of gates and comparisons: what was held against what, and with which outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from hessdiag.reports import TITLES
from hessdiag.reports.html.section import Section, badge, subject
from hessdiag.reports.html.spectrum import density_chart, nth
from hessdiag.show.markup import (
    Markup,
    block,
    eigenvalue,
    estimate,
    join,
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


def compare(payload: dict[str, Any]) -> Section:
    """Lay out ``hessdiag.compare/1``."""
    parts = payload["parts"]
    blocks = [block("Differences", _changes(parts))]
    overlaps = {name: part["overlap"] for name, part in parts.items() if part.get("overlap")}
    if overlaps:
        blocks.append(block("Overlap of the top eigenspaces", _overlaps(overlaps)))
    for name, part in parts.items():
        if densities := part.get("density"):
            named = [
                ("A", "initial dashed", densities["a"]),
                ("B", "trained", densities["b"]),
            ]
            title = f"Spectral densities of {TITLES[name]} in A and B"
            blocks.append(block(TITLES[name], density_chart(title, named, {})))
    one, other = subject(payload["a"]), subject(payload["b"])
    title = one if one == other else f"A: {one}; B: {other}"
    return Section("Comparison", title, list(_differences(payload)), blocks)


def _differences(payload: dict[str, Any]) -> Iterator[tuple[str, object]]:
    for label, key in ((str(payload["loss"]["name"]), "loss"), ("accuracy", "accuracy")):
        write = percent if key == "accuracy" else number
        yield label, f"{write(payload[key]['a'])} → {write(payload[key]['b'])}"
    for name, part in payload["parts"].items():
        found = part["trace"]["difference"]
        yield f"Δ tr {TITLES[name][-1]}", number(found["value"], found["error"])
    yield "probes", "paired" if payload["paired"] else "independent"


def _changes(parts: dict[str, Any]) -> Markup:
    rows: list[list[object]] = []
    for name, part in parts.items():
        symbol = TITLES[name][-1]
        rows.append([f"tr {symbol}", *_change(part["trace"])])
        rows.append([f"‖{symbol}‖_F", *_change(part["frobenius_norm"])])
        for end, label in (("top", "λ max"), ("bottom", "λ min")):
            for place, change in enumerate(part[end]):
                name = nth(end, place) if place else label
                rows.append([f"{name} {symbol}", *_change(change)])
    header = ["", "A", "B", "B − A", "relative", "significant"]
    return table("± is the standard error, for eigenvalues a bound on the error", header, rows)


def _change(change: dict[str, Any]) -> tuple[object, ...]:
    found = change["difference"]
    low, high = found["interval"] or (None, None)
    interval = tag("small", f"{number(low)} to {number(high)}") if low is not None else ""
    significant = {True: "yes", False: "no"}.get(change["significant"], "not known")
    return (
        *(
            eigenvalue(of) if "residual" in of else estimate(of)
            for of in (change["a"], change["b"])
        ),
        join((number(found["value"], found["error"]), interval)),
        percent(change["relative_change"]),
        significant,
    )


def _overlaps(overlaps: dict[str, Any]) -> Markup:
    rows = [
        [
            TITLES[name],
            number(found["value"]),
            ", ".join(map(number, found["cosines"])),
            "yes" if found["converged"] else "no",
        ]
        for name, found in overlaps.items()
    ]
    header = ["part", "overlap", "cosines of the principal angles", "converged"]
    return table("1 for equal spaces", header, rows)
