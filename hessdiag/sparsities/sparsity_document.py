"""The sparsity report for people: an activation alone, a sweep over β, or a network's calls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from hessdiag.linalg.trace import Estimate
from hessdiag.nets.profiles import Interval, Profile
from hessdiag.results import subject
from hessdiag.show.document import (
    STYLES,
    Axis,
    Bars,
    Block,
    Cell,
    Chart,
    Code,
    Count,
    Curve,
    Document,
    Quantity,
    Row,
    Share,
    Table,
)
from hessdiag.show.origin import origin
from hessdiag.sparsities.sparsity_result import CallSparsity, Network, Sparsity, Study

_WHEN = {"initial": "before training", "trained": "after training"}
_LEGEND = (
    "≠ 0: share of pre-activations with φ'' exactly not zero; > τ: with |φ''| > τ max |φ''|\n"
    "N reaches the weights through φ'': where it is zero, N has no within-layer part"
)
_MOST_PANELS = 24
_REACH = 2.0  # of x in the curves of a sweep


def document(report: Sparsity) -> Document:
    """Lay studies out: one activation by itself, several side by side, or call by call."""
    first = report.activations[0]
    if len(report.activations) > 1:
        blocks = _sweep(report)
    elif first.trained is None and first.profile is not None:
        blocks = _alone(report, first, first.profile)
    else:
        blocks = _network(report, first)
    return Document(
        kind="Sparsity",
        title=_title(report),
        headline=list(_headline(report)),
        facts=list(_facts(report)),
        blocks=blocks,
        footer=[_LEGEND] if first.trained or len(report.activations) > 1 else [],
        notes=report.notes,
        origin=origin(report),
    )


def _title(report: Sparsity) -> str:
    studies, first = report.activations, report.activations[0]
    if len(studies) > 1:
        where = f"{report.model.name} on {report.data.spec} ({report.data.split})"
        return f"{first.activation} by β in {where}"
    if first.trained is None and first.profile is not None:
        return f"φ'' of {first.title}, max |φ''| = {first.profile.peak:.6g}"
    return subject(report)


def _headline(report: Sparsity) -> Iterator[str]:
    first, network = report.activations[0], report.network
    settings = report.settings
    count = len(network.calls)
    census = (
        f"{network.total.num_preactivations:,} pre-activations at {count} activation "
        f"call{'s' if count > 1 else ''}"
    )
    if first.trained is None and first.profile is not None and len(report.activations) == 1:
        spread = sorted(call.std for call in network.calls)
        yield f"the fresh network has {census}, σ from {spread[0]:.2g} to {spread[-1]:.2g};"
        yield "BatchNorm statistics, if any, are those of the sample"
        if first.profile.peak == 0:
            yield "φ'' = 0 everywhere: this activation carries no within-layer NME"
    else:
        yield f"{report.num_samples:,} samples, {census}"
        yield f"τ = {settings.threshold:g} of max |φ''|, {settings.dtype} on {settings.device}"
    yield ""


def _facts(report: Sparsity) -> Iterator[tuple[str, Cell]]:
    above = f"> {report.settings.threshold:g} max"
    for study in report.activations:
        total = list(study.networks.values())[-1].total
        if len(report.activations) > 1:
            yield f"{study.title}, {above}", Share(total.above)
        else:
            yield "φ'' ≠ 0", Share(total.nonzero)
            yield f"|φ''| {above}", Share(total.above)
            yield "mean |φ''|", Quantity(total.mean_abs)
            yield "activation calls", Count(len(report.calls))
            yield "pre-activations", Count(total.num_preactivations)


def _alone(report: Sparsity, study: Study, profile: Profile) -> list[Block]:
    threshold = f"|φ''| > {profile.threshold:g} max"
    name = report.model.name or "network"
    fresh = f"fresh {name} on {report.data.spec}"
    where = [
        Row([f"φ'' ≠ 0 in {profile.dtype}", _places(profile.nonzero)]),
        Row([threshold, _places(profile.above)]),
    ]
    shares = [
        Row([f"Gaussian, σ = {share.std:g}", Share(share.nonzero), Share(share.above)])
        for share in profile.gaussian
    ]
    total = report.total
    shares.append(Row([fresh, Share(total.nonzero), Share(total.above)]))
    stds = [share.std for share in profile.gaussian]
    rows = (("φ'' ≠ 0", "a", "nonzero"), (threshold, "b", "above"))
    curves = [
        Curve(
            label,
            stds,
            [100 * getattr(share, field) for share in profile.gaussian],
            style,
            dots=True,
        )
        for label, style, field in rows
    ]
    curves += [
        Curve(
            f"{label}, fresh {name}",
            stds,
            [100 * getattr(total, field)] * len(stds),
            f"{style} dashed",
        )
        for label, style, field in rows
    ]
    by_std = Chart(
        "share of pre-activations by σ",
        Axis("σ of Gaussian pre-activations", "log"),
        Axis("share of pre-activations, %", "linear", 0.0, 100.0),
        curves,
    )
    blocks = [Block("Second derivative", [Table(["", "for"], where, words=2)])]
    if profile.peak > 0:
        blocks.insert(0, Block("φ''", [_curve([study])]))
    blocks += [
        Block(
            "Shares of pre-activations", [Table(["pre-activations", "φ'' ≠ 0", threshold], shares)]
        ),
        Block("Shares by σ", [by_std], media=("page", "figure")),
    ]
    return [*blocks, *_blocks(report, study)]


def _curve(studies: Sequence[Study]) -> Chart:
    """Draw φ'' as it is, of one study; of several each over its own maximum, on one axis."""
    curves: list[Curve] = []
    for place, study in enumerate(studies):
        profile = study.profile
        if profile is None:
            continue
        x, y = np.array(profile.points), np.array(profile.values)
        label, style = f"φ'' of {study.title}", "c"
        if len(studies) > 1:
            label, style = f"β = {study.beta:g}", STYLES[place % len(STYLES)]
            low, high = min(x[0], -_REACH), max(x[-1], _REACH)  # zero beyond what is drawn
            x, y = np.r_[low, x, high], np.r_[0.0, y, 0.0] / (profile.peak or 1.0)
        curves.append(Curve(label, x, y, style))
    many = len(studies) > 1
    across = Axis("x", "linear", -_REACH, _REACH) if many else Axis("x", "linear")
    up = Axis("φ''(x) / max |φ''|" if many else "φ''(x)", "linear")
    return Chart("second derivative", across, up, curves, tall=not many)


def _sweep(report: Sparsity) -> list[Block]:
    studies = report.activations
    kinds = list(studies[0].networks)
    with_norms = studies[0].networks[kinds[-1]].block_norms is not None
    header = ["β", "max |φ''|", *([] if with_norms else ["σ = 1, ≠ 0", "> τ"])]
    for kind in kinds:
        header += [f"{'init' if kind == 'initial' else kind} ≠ 0", "> τ"]
        header += ["‖blocks of N‖"] if with_norms else []
    rows: list[Row] = []
    for study in studies:
        profile = study.profile
        assert profile is not None
        cells: list[Cell] = [f"{study.beta:g}", f"{profile.peak:.3g}"]
        if not with_norms:
            standard = next(share for share in profile.gaussian if share.std == 1.0)
            cells += [Share(standard.nonzero), Share(standard.above)]
        for network in study.networks.values():
            cells += [Share(network.total.nonzero), Share(network.total.above)]
            cells += [_estimate(network.norm_of_blocks)] if with_norms else []
        rows.append(Row(cells))
    betas = [study.beta or math.nan for study in studies]
    curves = [
        Curve(
            f"{label}, {_WHEN[kind]}",
            betas,
            [100 * getattr(study.networks[kind].total, field) for study in studies],
            f"{kind}{more}",
            dots=True,
        )
        for kind in kinds
        for field, label, more in (("nonzero", "φ'' ≠ 0", " dashed"), ("above", "> τ", ""))
    ]
    by_beta = Chart(
        "share of pre-activations by β",
        Axis("β", "log"),
        Axis("share of pre-activations, %", "linear", 0.0, 100.0),
        curves,
    )
    return [
        Block("By β", [Table(header, rows)]),
        Block("Second derivative", [_curve(studies), by_beta], media=("page", "figure")),
    ]


def _network(report: Sparsity, study: Study) -> list[Block]:
    blocks = [Block("Call by call", [_calls(study)]), *_blocks(report, study)]
    if study.profile is not None and study.profile.peak > 0:
        blocks.append(Block("Second derivative", [_curve([study])], media=("page",)))
    return [*blocks, Block("Pre-activations", _histograms(study), media=("figure",))]


def _calls(study: Study) -> Table:
    """List the calls of the network looked at, those before training beside them."""
    networks = study.networks
    main, other = networks.get("trained") or networks["initial"], None
    if "trained" in networks:
        other = networks.get("initial")
    before = {call.name: call for call in other.calls} if other else {}
    mixed = len({call.function for call in main.calls}) > 1
    header: list[Cell] = ["activation call", *(["φ"] if mixed else [])]
    header += ["mean", "σ", "≠ 0", "> τ", "|φ''|"]
    header += ["init σ", "≠ 0", "> τ"] if other else []
    rows: list[Row] = []
    for call in main.calls:
        cells: list[Cell] = [Code(call.name), *([Code(call.function)] if mixed else [])]
        cells += [f"{call.mean:.2f}", f"{call.std:.2f}", Share(call.nonzero), Share(call.above)]
        cells.append(Quantity(call.mean_abs))
        if other:
            cells += _before(before.get(call.name))
        rows.append(Row([*cells, _bars(study, call)]))
    total = main.total
    cells = ["all", *([""] if mixed else []), "", "", Share(total.nonzero), Share(total.above)]
    cells.append(Quantity(total.mean_abs))
    cells += ["", Share(other.total.nonzero), Share(other.total.above)] if other else []
    rows.append(Row([*cells, ""], "heading"))
    return Table([*header, "> τ"], rows, words=1 + mixed)


def _before(call: CallSparsity | None) -> list[Cell]:
    if call is None:
        return ["", "", ""]
    return [f"{call.std:.2f}", Share(call.nonzero), Share(call.above)]


def _bars(study: Study, call: CallSparsity) -> Bars:
    found = {
        kind: other.above
        for kind, network in study.networks.items()
        for other in network.calls
        if other.name == call.name
    }
    return Bars(list(found.items()), 0.0, 1.0)


def _blocks(report: Sparsity, study: Study) -> list[Block]:
    """List the norms of the within-layer blocks, each beside the activation call it feeds."""
    networks: dict[str, Network] = dict(reversed(study.networks.items()))
    main = next(iter(networks.values()))
    if main.block_norms is None:
        return []
    calls = {layer: call for call in main.calls for layer in call.layers}
    rows: list[Row] = []
    for layer in main.block_norms:
        norms = [(network.block_norms or {}).get(layer) for network in networks.values()]
        call = calls.get(layer)
        fed: list[Cell] = [Code(call.name), Share(call.above)] if call else ["none", ""]
        rows.append(Row([Code(layer), *map(_estimate, norms), *fed]))
    whole = (_estimate(network.norm_of_blocks) for network in networks.values())
    rows.append(Row(["all", *whole, "", ""], "heading"))
    named = [f"‖Nₗₗ‖, {_WHEN[kind]}" for kind in networks]
    caption = f"Frobenius norms, ± standard error over {report.settings.num_probes} probes"
    table = Table(["parameter", *named, "next activation call", "> τ"], rows, caption)
    return [Block("Within-layer blocks of N", [table])]


def _histograms(study: Study) -> list[Chart]:
    """Draw the pre-activations of each call, before and after training, and φ'' over them."""
    kinds = dict(reversed(study.networks.items()))
    calls = next(iter(kinds.values())).calls
    chosen = np.linspace(0, len(calls) - 1, min(len(calls), _MOST_PANELS))
    charts: list[Chart] = []
    for call in (calls[round(place)] for place in chosen):
        curves: list[Curve] = []
        for kind, network in kinds.items():
            for one in network.calls:
                if one.name == call.name:
                    filled = " filled" if kind == "trained" else ""
                    curves.append(Curve(_WHEN[kind], *_density(one), kind + filled))
        if call.curve is not None and call.peak > 0:
            highest = max(float(np.max(curve.y)) for curve in curves)
            second = np.array(call.curve, float) * highest / call.peak
            curves.append(Curve("φ'', scaled", _middles(call), second, "c"))
        title = f"{call.name}: {100 * call.above:.3g} % > τ"
        charts.append(Chart(title, Axis("x", "linear"), Axis("share per x", "linear"), curves))
    return charts


def _density(call: CallSparsity) -> tuple[np.ndarray, np.ndarray]:
    counts, widths = np.array(call.histogram.counts), np.diff(call.histogram.edges)
    return _middles(call), counts / (widths * call.num_preactivations)


def _middles(call: CallSparsity) -> np.ndarray:
    edges = np.array(call.histogram.edges)
    return (edges[:-1] + edges[1:]) / 2


def _estimate(found: Estimate | None) -> Cell:
    return "" if found is None else Quantity(found.value, found.stderr)


def _places(intervals: Sequence[Interval]) -> str:
    """Say for which x something holds."""
    return " or ".join(_place(*interval.ends) for interval in intervals) or "no x"


def _place(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return "all x"
    if math.isinf(high):
        return f"x > {low:.4g}"
    if math.isinf(low):
        return f"x < {high:.4g}"
    if math.isclose(-low, high, rel_tol=1e-6):
        return f"|x| < {high:.4g}"
    return f"{low:.4g} < x < {high:.4g}"
