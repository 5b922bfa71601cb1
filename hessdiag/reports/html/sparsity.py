"""The section of sparsity: how much of φ'' is there, call by call, before and after training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hessdiag.nets import activations
from hessdiag.reports.html import charts
from hessdiag.reports.html.charts import Curve
from hessdiag.reports.html.section import Section, subject
from hessdiag.show.markup import (
    Markup,
    block,
    count,
    estimate,
    number,
    percent,
    table,
    tag,
)

_KINDS = {"initial": "before training", "trained": "after training"}


def sparsity(payload: dict[str, Any]) -> Section:
    """Lay out ``hessdiag.sparsity/1``."""
    studies = payload["activations"]
    threshold = number(payload["settings"]["threshold"])
    blocks = [block("Shares of pre-activations", _totals(studies, threshold))]
    charted = [_by_beta(studies, threshold)] if len(studies) > 1 else []
    if any(study["profile"] for study in studies):
        charted.append(_curves(studies))
    if charted:
        blocks.append(block("Second derivative", charts.grid(charted)))
    for study in studies if len(studies) == 1 else ():
        blocks.append(block("Call by call", _calls(study, threshold)))
        if (norms := _block_norms(study)) is not None:
            blocks.append(block("Within-layer blocks of N", norms))
    return Section("Sparsity", subject(payload), list(_facts(studies, threshold)), blocks)


def _name(study: dict[str, Any]) -> str:
    name = study["activation"]
    return activations.label(name, study["beta"]) if name else "the network's own"


def _kinds(study: dict[str, Any]) -> list[str]:
    return [kind for kind in _KINDS if study[kind] is not None]


def _facts(studies: Sequence[Any], threshold: str) -> Iterator[tuple[str, object]]:
    for study in studies:
        for kind in _kinds(study)[-1:]:
            total = study[kind]["total"]
            if len(studies) > 1:
                yield f"{_name(study)}, > {threshold}", percent(total["above"])
            else:
                yield "φ'' ≠ 0", percent(total["nonzero"])
                yield f"|φ''| > {threshold} max", percent(total["above"])
                yield "mean |φ''|", number(total["mean_abs"])
                yield "activation calls", count(len(study[kind]["calls"]))
                yield "pre-activations", count(total["num_preactivations"])


def _totals(studies: Sequence[Any], threshold: str) -> Markup:
    header = ["activation", "weights", "φ'' ≠ 0", f"|φ''| > {threshold} max", "mean |φ''|", "share"]
    rows = [
        [_name(study), _KINDS[kind], *_shares(total), _share_bars([(kind, total["above"])])]
        for study in studies
        for kind in _kinds(study)
        for total in [study[kind]["total"]]
    ]
    return table("How many pre-activations meet the second derivative", header, rows, words=2)


def _shares(found: dict[str, Any]) -> tuple[str, str, str]:
    return percent(found["nonzero"]), percent(found["above"]), number(found["mean_abs"])


def _share_bars(shares: Sequence[tuple[str, float | None]]) -> Markup:
    return charts.bars(shares, 0.0, 1.0)


def _by_beta(studies: Sequence[Any], threshold: str) -> Markup:
    betas = charts.values(study["beta"] for study in studies)
    curves = [
        Curve(
            f"{label}, {_KINDS[kind]}",
            kind + faint,
            betas,
            100 * charts.values(study[kind]["total"][field] for study in studies),
            dots=True,
        )
        for kind in _kinds(studies[0])
        for field, label, faint in (
            ("nonzero", "φ'' ≠ 0", " dashed"),
            ("above", f"|φ''| > {threshold} max", ""),
        )
    ]
    y = charts.linear("share of pre-activations, %", charts.values([0.0, 100.0]))
    return charts.chart(charts.suitable("β", betas), y, curves)


def _curves(studies: Sequence[Any]) -> Markup:
    shown = [study for study in studies if study["profile"]]
    curves = [
        Curve(
            _name(study),
            charts.STYLES[place % len(charts.STYLES)],
            charts.values(study["profile"]["points"]),
            charts.values(study["profile"]["values"]),
        )
        for place, study in enumerate(shown)
    ]
    x = charts.linear("x", *(curve.x for curve in curves))
    y = charts.linear("second derivative φ''(x)", *(curve.y for curve in curves))
    return charts.chart(x, y, curves)


def _calls(study: dict[str, Any], threshold: str) -> Markup:
    kinds = _kinds(study)
    header = ["call", "function"]
    for kind in kinds:
        header += [f"φ'' ≠ 0, {_KINDS[kind]}", f"> {threshold} max, {_KINDS[kind]}"]
    found = {kind: {call["name"]: call for call in study[kind]["calls"]} for kind in kinds}
    rows: list[list[object]] = []
    for name, call in found[kinds[-1]].items():
        own = {kind: calls[name] for kind, calls in found.items() if name in calls}
        cells: list[object] = []
        for kind in kinds:
            shares = own.get(kind, {"nonzero": None, "above": None})
            cells += [percent(shares["nonzero"]), percent(shares["above"])]
        drawn = _share_bars([(kind, one["above"]) for kind, one in own.items()])
        rows.append([tag("code", name), tag("code", call["function"]), *cells, drawn])
    caption = "Share of each call's pre-activations; bars: above the threshold"
    if len(kinds) > 1:
        caption += ", before training (light) over after training (dark)"
    return table(caption, [*header, "share"], rows, words=2)


def _block_norms(study: dict[str, Any]) -> Markup | None:
    kinds = [kind for kind in _kinds(study) if study[kind]["block_norms"]]
    if not kinds:
        return None
    norms = {kind: study[kind]["block_norms"] for kind in kinds}
    high = max((norm["value"] or 0.0 for own in norms.values() for norm in own.values()), default=0)
    rows = [
        [
            tag("code", name),
            *(estimate(own.get(name)) for own in norms.values()),
            charts.bars(
                [(kind, own[name]["value"]) for kind, own in norms.items() if name in own],
                0.0,
                high,
            ),
        ]
        for name in norms[kinds[-1]]
    ]
    header = ["parameter", *(f"‖Nₗₗ‖, {_KINDS[kind]}" for kind in kinds), "norm"]
    return table("Frobenius norms of N's diagonal blocks, ± standard error", header, rows)
