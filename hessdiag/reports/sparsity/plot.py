"""Sparsity reports as plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hessdiag.errors import printable
from hessdiag.metadata import Provenance
from hessdiag.reports.figures import blank
from hessdiag.reports.wording import title
from hessdiag.sparsities.preactivations import CallSparsity
from hessdiag.sparsities.studies import Study

_TRAINED, _INITIAL, _CURVE = "#0072b2", "#999999", "#d55e00"  # safe for colour-blind eyes
_MOST_PANELS = 24
_REACH = 2.0  # of x in the sweep's curves


def sparsity_figure(studies: Sequence[Study], provenance: Provenance) -> Figure:
    """Draw one activation's φ'', a sweep over β, or every activation call of a network."""
    if len(studies) > 1:
        figure = _sweep(studies)
        name = f"{studies[0].activation} in {provenance.model.name} on {provenance.data}"
    elif studies[0].trained is None and studies[0].profile is not None:
        figure = _alone(studies[0], provenance)
        name = f"second derivative of {studies[0].title}"
    else:
        figure = _calls(studies[0])
        name = title(provenance)
    figure.suptitle(printable(name), fontsize=11, parse_math=False)
    return figure


def _alone(study: Study, provenance: Provenance) -> Figure:
    profile, found = study.profile, study.initial
    assert profile is not None
    assert found is not None
    figure = blank(9, 3.8)
    curve_axes, share_axes = figure.subplots(1, 2)
    curve_axes.axhline(0, color="#bbbbbb", lw=0.8)
    curve_axes.plot(profile.points, profile.values, color=_CURVE, lw=1.8)
    for interval in profile.above:
        low, high = max(interval.low, profile.points[0]), min(interval.high, profile.points[-1])
        curve_axes.axvspan(low, high, color=_CURVE, alpha=0.08, lw=0)
    curve_axes.set_xlabel(f"x; shaded: |φ''| > {profile.threshold:g} max |φ''|")
    curve_axes.set_ylabel("φ''(x)")
    curve_axes.margins(x=0)
    curve_axes.locator_params(axis="x", nbins=6)
    stds = [share.std for share in profile.gaussian]
    rows = (("nonzero", f"φ'' ≠ 0 in {profile.dtype}"), ("above", "above the threshold"))
    for (field, label), colour in zip(rows, (_INITIAL, _TRAINED), strict=True):
        values = [100 * getattr(share, field) for share in profile.gaussian]
        share_axes.plot(stds, values, "o-", color=colour, label=label, lw=1.6, ms=4)
        share_axes.axhline(100 * getattr(found.total, field), color=colour, ls=":", lw=1.4)
    share_axes.set_xscale("log")
    share_axes.set_ylim(-3, 103)
    share_axes.set_xlabel(
        printable(f"σ of Gaussian pre-activations; dotted: fresh {provenance.model.name}"),
        parse_math=False,
    )
    share_axes.set_ylabel("share of pre-activations, %")
    share_axes.grid(alpha=0.25)
    share_axes.legend(frameon=False)
    return figure


def _sweep(studies: Sequence[Study]) -> Figure:
    figure = blank(9, 3.8)
    curve_axes, share_axes = figure.subplots(1, 2)
    betas = [study.beta for study in studies]
    shades = colormaps["viridis"](np.linspace(0.85, 0.0, len(studies)))
    for study, colour in zip(studies, shades, strict=True):
        assert study.profile is not None
        shape = study.profile
        low, high = min(shape.points[0], -_REACH), max(shape.points[-1], _REACH)
        x = (low, *shape.points, high)  # zero to both sides of what is drawn
        y = np.array((0.0, *shape.values, 0.0)) / (shape.peak or 1.0)
        label = f"β = {study.beta:g}"
        curve_axes.plot(x, y, color=colour, lw=1.5, label=label)
    curve_axes.set_xlim(-_REACH, _REACH)
    curve_axes.set_xlabel("x")
    curve_axes.set_ylabel("φ''(x) / max |φ''|")
    curve_axes.legend(frameon=False, fontsize=8)
    for kind, colour in (("initial", _INITIAL), ("trained", _TRAINED)):
        if getattr(studies[0], kind) is None:
            continue
        for field, style in (("nonzero", "o--"), ("above", "o-")):
            values = [100 * getattr(getattr(study, kind).total, field) for study in studies]
            label = "before training" if kind == "initial" else "after training"
            label += ", φ'' ≠ 0" if field == "nonzero" else ", above the threshold"
            share_axes.plot(betas, values, style, color=colour, label=label, lw=1.6, ms=4)
    share_axes.set_xscale("log")
    share_axes.set_ylim(-3, 103)
    share_axes.set_xlabel("β")
    share_axes.set_ylabel("share of pre-activations, %")
    share_axes.grid(alpha=0.25)
    share_axes.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def _calls(study: Study) -> Figure:
    """Histograms of the pre-activations of each call over φ'', before and after training."""
    main = study.trained or study.initial
    assert main is not None
    other = study.initial if study.trained else None
    before = {call.name: call for call in other.calls} if other else {}
    chosen = np.linspace(0, len(main.calls) - 1, min(len(main.calls), _MOST_PANELS))
    calls = [main.calls[round(index)] for index in chosen]
    columns = min(4, len(calls))
    rows = math.ceil(len(calls) / columns)
    figure = blank(2.9 * columns + 0.4, 2.1 * rows + 0.8)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(calls) :]:
        axes.set_visible(False)
    for axes, call in zip(panels.flat, calls, strict=False):
        _histogram(axes, call, before.get(call.name))
    labels = ["after training", "before training", "φ''"] if other else ["pre-activations", "φ''"]
    handles = [_patch(_TRAINED), *([_patch(_INITIAL)] if other else []), _patch(_CURVE)]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _histogram(axes: Any, call: CallSparsity, before: CallSparsity | None) -> None:
    for one, colour, filled in ((call, _TRAINED, True), (before, _INITIAL, False)):
        if one is None:
            continue
        edges, counts = np.array(one.histogram.edges), np.array(one.histogram.counts)
        heights = counts / (np.diff(edges) * one.shares.num_preactivations)
        axes.stairs(
            heights, edges, fill=filled, color=colour, alpha=0.45 if filled else 1.0, lw=1.3
        )
    if call.curve is not None and call.peak > 0:
        twin = axes.twinx()
        edges = np.array(call.histogram.edges)
        twin.plot((edges[:-1] + edges[1:]) / 2, call.curve, color=_CURVE, lw=1.3)
        twin.axhline(0, color=_CURVE, lw=0.5, alpha=0.4)
        twin.set_yticks([])
    axes.set_yticks([])
    axes.set_title(
        printable(f"{call.name}: {100 * call.shares.above:.3g} %"), fontsize=8, parse_math=False
    )
    axes.tick_params(labelsize=7)


def _patch(colour: str) -> Patch:
    return Patch(color=colour)
