"""Sparsity reports for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hessdiag.curvature.sparsity import CallSparsity, Shares, Sparsity
from hessdiag.errors import printable
from hessdiag.metadata import Provenance
from hessdiag.nets.profiles import Interval, Profile
from hessdiag.reports.sparsity.drawing import draw
from hessdiag.reports.sparsity.schema import notes
from hessdiag.reports.wording import plus_minus, title
from hessdiag.studies import Study

_WIDTH, _HEIGHT = 56, 7  # of the drawing, in characters


def sparsity_text(studies: Sequence[Study], provenance: Provenance) -> RenderableType:
    """Lay studies out: one activation by itself, or several side by side."""
    blocks: list[RenderableType] = []
    if len(studies) > 1:
        blocks += [_headline(studies, provenance), _sweep(studies)]
    elif studies[0].trained is None:
        blocks += _alone(studies[0], provenance)
    else:
        blocks += [_headline(studies, provenance), _calls(studies[0])]
        if studies[0].trained.block_norms is not None:
            blocks.append(_blocks(studies[0]))
    for note in notes(studies):
        blocks.append(Text(printable(f"note: {note}"), style="yellow"))
    return Group(*blocks)


def _headline(studies: Sequence[Study], provenance: Provenance) -> Text:
    found = studies[0].trained or studies[0].initial
    assert found is not None
    lines = [title(provenance)] if len(studies) == 1 else [_sweep_title(studies, provenance)]
    lines.append(
        f"{found.num_samples:,} samples, {found.total.num_preactivations:,} pre-activations at "
        f"{len(found.calls)} activation calls"
    )
    lines.append(f"τ = {found.threshold:g} of max |φ''|, {found.dtype} on {found.device}\n")
    return Text(printable("\n".join(lines)))


def _sweep_title(studies: Sequence[Study], provenance: Provenance) -> str:
    network = f"{provenance.model.name} on {provenance.data} ({provenance.split})"
    return f"{studies[0].activation} by β in {network}"


def _alone(study: Study, provenance: Provenance) -> list[RenderableType]:
    profile, found = study.profile, study.initial
    assert found is not None
    blocks: list[RenderableType] = []
    if profile is not None:
        blocks.append(_drawing(study.title, profile))
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("pre-activations", no_wrap=True)
    for heading in ("φ'' ≠ 0", f"|φ''| > {found.threshold:g} max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for share in profile.gaussian if profile else ():
        table.add_row(
            f"Gaussian, σ = {share.std:g}", _percent(share.nonzero), _percent(share.above)
        )
    name = printable(f"fresh {provenance.model.name} on {provenance.data}")
    table.add_row(escape(name), _percent(found.total.nonzero), _percent(found.total.above))
    blocks.append(table)
    spread = sorted(call.std for call in found.calls)
    blocks.append(
        Text(
            f"\nthe network has {found.total.num_preactivations:,} pre-activations at "
            f"{len(found.calls)} activation calls, σ from {spread[0]:.2g} to {spread[-1]:.2g}",
            style="dim",
        )
    )
    if found.block_norms is not None:
        blocks.append(_blocks(study))
    return blocks


def _drawing(name: str, profile: Profile) -> RenderableType:
    lines = [Text(f"φ'' of {name}, max |φ''| = {profile.peak:.6g}\n", style="bold")]
    if profile.peak > 0:
        labels = [f"{value:.3g}" for value in (max(profile.values), min(profile.values))]
        margin = max(map(len, labels)) + 1
        drawn = draw(profile.values, width=_WIDTH, height=_HEIGHT)
        for number, line in enumerate(drawn):
            label = labels[0] if number == 0 else labels[1] if number == _HEIGHT - 1 else ""
            lines.append(Text(label.rjust(margin - 1) + " ").append(line, style="cyan"))
        low, high = f"{profile.points[0]:.3g}", f"{profile.points[-1]:.3g}"
        middle = "0".center(_WIDTH - 2 * max(len(low), len(high)))
        side = max(len(low), len(high))
        axis = low.ljust(side) + middle + high.rjust(side)
        lines.append(Text(" " * margin + axis + "  x\n", style="dim"))
        lines.append(Text(f"φ'' ≠ 0 in {profile.dtype} for {_where(profile.nonzero)}"))
        lines.append(Text(f"|φ''| > {profile.threshold:g} max for {_where(profile.above)}\n"))
    else:
        lines.append(Text("φ'' = 0 everywhere: this activation carries no within-layer NME\n"))
    return Group(*lines)


def _sweep(studies: Sequence[Study]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("β", justify="right", no_wrap=True)
    table.add_column("max |φ''|", justify="right", no_wrap=True)
    table.add_column("Gaussian σ = 1\nφ'' ≠ 0", justify="right", no_wrap=True)
    table.add_column("\n> τ max", justify="right", no_wrap=True)
    kinds = [kind for kind in ("initial", "trained") if getattr(studies[0], kind) is not None]
    for kind in kinds:
        heading = "trained" if kind == "trained" else "at initialisation"
        table.add_column(f"{heading}\nφ'' ≠ 0", justify="right", no_wrap=True)
        table.add_column("\n> τ max", justify="right", no_wrap=True)
    for study in studies:
        assert study.profile is not None
        standard = next(share for share in study.profile.gaussian if share.std == 1.0)
        row = [f"{study.beta:g}", f"{study.profile.peak:.4g}"]
        row += [_percent(standard.nonzero), _percent(standard.above)]
        for kind in kinds:
            total: Shares = getattr(study, kind).total
            row += [_percent(total.nonzero), _percent(total.above)]
        table.add_row(*row)
    return table


def _calls(study: Study) -> Table:
    trained, initial = study.trained, study.initial
    assert trained is not None
    before = {call.name: call for call in initial.calls} if initial else {}
    functions = {call.function for call in trained.calls}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("activation call\n")
    if len(functions) > 1:
        table.add_column("\nφ", no_wrap=True)
    for heading in ("trained\nmean", "\nσ", "\nφ'' ≠ 0", "\n> τ max", "\nmean |φ''|"):
        table.add_column(heading, justify="right", no_wrap=True)
    if initial:
        for heading in ("at initialisation\nσ", "\nφ'' ≠ 0", "\n> τ max"):
            table.add_column(heading, justify="right", no_wrap=True)
    for call in trained.calls:
        row = [escape(printable(call.name))]
        if len(functions) > 1:
            row.append(escape(printable(call.function)) + ("" if call.closed_form else " ~"))
        row += [f"{call.mean:.2f}", f"{call.std:.2f}", *_shares(call.shares)]
        row.append(f"{call.shares.mean_abs:.3g}")
        if initial:
            row += _before(before.get(call.name))
        table.add_row(*row)
    row = ["all", *[""] * (1 + (len(functions) > 1)), "", *_shares(trained.total)]
    row.append(f"{trained.total.mean_abs:.3g}")
    if initial:
        row += ["", *_shares(initial.total)]
    table.add_row(*row, style="bold")
    return table


def _before(call: CallSparsity | None) -> list[str]:
    return ["", "", ""] if call is None else [f"{call.std:.2f}", *_shares(call.shares)]


def _blocks(study: Study) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("\nwithin-layer block of N\n")
    networks: list[tuple[str, Sparsity]] = []
    if study.trained is not None:
        networks.append(("trained", study.trained))
    if study.initial is not None:
        networks.append(("at initialisation", study.initial))
    for heading, _ in networks:
        table.add_column(f"\n{heading}\nFrobenius norm", justify="right", no_wrap=True)
        table.add_column("\n\n> τ max", justify="right", no_wrap=True)
    table.add_column("\nnext activation call\n")
    first = networks[0][1]
    calls = [
        {layer: call for call in found.calls for layer in call.layers} for _, found in networks
    ]
    for layer in first.block_norms or {}:
        row = [escape(printable(layer))]
        for (_, found), by_layer in zip(networks, calls, strict=True):
            norm = (found.block_norms or {})[layer]
            call = by_layer.get(layer)
            row += [
                plus_minus(norm.value, norm.stderr),
                _percent(call.shares.above) if call else "",
            ]
        following = calls[0].get(layer)
        row.append(escape(printable(following.name)) if following else "none")
        table.add_row(*row)
    return table


def _shares(shares: Shares) -> list[str]:
    return [_percent(shares.nonzero), _percent(shares.above)]


def _percent(share: float) -> str:
    if 0 < share < 5e-5:
        return f"{share * 100:.0e} %"
    return f"{share * 100:.2f} %"


def _where(intervals: Sequence[Interval]) -> str:
    if not intervals:
        return "no x"
    return " or ".join(_interval(interval) for interval in intervals)


def _interval(interval: Interval) -> str:
    low, high = interval.low, interval.high
    if math.isinf(low) and math.isinf(high):
        return "all x"
    if math.isinf(high):
        return f"x > {low:.4g}"
    if math.isinf(low):
        return f"x < {high:.4g}"
    if math.isclose(-low, high, rel_tol=1e-6):
        return f"|x| < {high:.4g}"
    return f"{low:.4g} < x < {high:.4g}"
