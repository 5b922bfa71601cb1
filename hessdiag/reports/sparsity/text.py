"""Sparsity reports for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hessdiag.errors import printable
from hessdiag.linalg.trace import Estimate
from hessdiag.metadata import Provenance
from hessdiag.nets.profiles import Interval, Profile
from hessdiag.reports.sparsity.drawing import draw
from hessdiag.reports.sparsity.schema import notes
from hessdiag.reports.wording import plus_minus, title, trained_with
from hessdiag.sparsities.preactivations import CallSparsity, Shares
from hessdiag.sparsities.sparsity_run import Sparsity
from hessdiag.sparsities.studies import Study

_WIDTH, _HEIGHT = 56, 7  # of the drawing, in characters
_KINDS = {"initial": "at init", "trained": "trained"}
_LEGEND = """
≠ 0: share of pre-activations with φ'' exactly not zero; > τ: with |φ''| > τ max |φ''|
N reaches the weights through φ'': where it is zero, N has no within-layer part"""


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
    if len(studies) > 1 or studies[0].trained:
        blocks.append(Text(_LEGEND, style="dim"))
    for note in notes(studies):
        blocks.append(Text(printable(f"note: {note}"), style="yellow"))
    return Group(*blocks)


def _headline(studies: Sequence[Study], provenance: Provenance) -> Text:
    found = studies[0].trained or studies[0].initial
    assert found is not None
    network = f"{provenance.model.name} on {provenance.data} ({provenance.split})"
    network += trained_with(provenance)
    many = len(studies) > 1
    lines = [f"{studies[0].activation} by β in {network}" if many else title(provenance)]
    lines.append(f"{found.num_samples:,} samples, {_census(found)}")
    lines.append(f"τ = {found.threshold:g} of max |φ''|, {found.dtype} on {found.device}\n")
    return Text(printable("\n".join(lines)))


def _census(found: Sparsity) -> str:
    plural = "s" if len(found.calls) > 1 else ""
    return (
        f"{found.total.num_preactivations:,} pre-activations at {len(found.calls)} activation "
        f"call{plural}"
    )


def _alone(study: Study, provenance: Provenance) -> list[RenderableType]:
    profile, found = study.profile, study.initial
    assert found is not None
    blocks: list[RenderableType] = []
    if profile is not None:
        blocks.append(_drawing(study.title, profile))
    table = _table()
    table.add_column("pre-activations")
    for heading in ("φ'' ≠ 0", f"|φ''| > {found.threshold:g} max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for share in profile.gaussian if profile else ():
        shares = f"{_percent(share.nonzero)} %", f"{_percent(share.above)} %"
        table.add_row(f"Gaussian, σ = {share.std:g}", *shares)
    name = printable(f"fresh {provenance.model.name} on {provenance.data}")
    table.add_row(escape(name), *(f"{share} %" for share in _shares(found.total)))
    blocks.append(table)
    spread = sorted(call.std for call in found.calls)
    blocks.append(
        Text(
            f"\nthe fresh network has {_census(found)}, σ from {spread[0]:.2g} to "
            f"{spread[-1]:.2g};\nBatchNorm statistics, if any, are those of the sample",
            style="dim",
        )
    )
    if found.block_norms is not None:
        blocks.append(_blocks(study))
    return blocks


def _drawing(name: str, profile: Profile) -> RenderableType:
    lines = [Text(f"φ'' of {name}, max |φ''| = {profile.peak:.6g}\n", style="bold")]
    if profile.peak > 0:
        top, bottom = max(profile.values), min(profile.values)
        if top >= 0.9 * profile.peak:  # of a peak that ends in a jump, the grid misses a little
            top = profile.peak
        labels = [f"{top:.3g}", f"{min(bottom, 0.0):.3g}"]
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
    """List the values of β; with norms there is no room for the Gaussian shares in 80 columns."""
    kinds = [kind for kind in _KINDS if getattr(studies[0], kind) is not None]
    with_norms = getattr(studies[0], kinds[0]).block_norms is not None
    headings = ["\nβ", "\nmax", *([] if with_norms else ["Gaussian\n≠ 0 %", "σ = 1\n> τ %"])]
    for kind in kinds:
        headings += [f"{_KINDS[kind]}\n≠ 0 %", "\n> τ %", *(["\nblocks of N"] * with_norms)]
    table = _table(padding=2)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for study in studies:
        assert study.profile is not None
        row = [f"{study.beta:g}", f"{study.profile.peak:.3g}"]
        if not with_norms:
            standard = next(share for share in study.profile.gaussian if share.std == 1.0)
            row += [_percent(standard.nonzero), _percent(standard.above)]
        for kind in kinds:
            found: Sparsity = getattr(study, kind)
            row += _shares(found.total)
            if found.block_norms is not None:
                row.append(_all_blocks(found.block_norms))
        table.add_row(*row)
    return table


def _calls(study: Study) -> Table:
    """List the calls; narrow enough for 80 columns, where long names fold."""
    trained, initial = study.trained, study.initial
    assert trained is not None
    before = {call.name: call for call in initial.calls} if initial else {}
    mixed = len({call.function for call in trained.calls}) > 1
    table = _table(padding=2)
    table.add_column("\nactivation call", overflow="fold", min_width=12)
    if mixed:
        table.add_column("\nφ", overflow="fold", min_width=7)
    for heading in ("trained\nmean", "\nσ", "\n≠ 0 %", "\n> τ %", "\n|φ''|"):
        table.add_column(heading, justify="right", no_wrap=True)
    if initial:
        for heading in ("init\nσ", "\n≠ 0 %", "\n> τ %"):
            table.add_column(heading, justify="right", no_wrap=True)
    for call in trained.calls:
        row = [escape(printable(call.name))]
        if mixed:
            row.append(escape(printable(call.function)))
        row += [f"{call.mean:.2f}", f"{call.std:.2f}", *_shares(call.shares)]
        row.append(f"{call.shares.mean_abs:.2g}")
        if initial:
            row += _before(before.get(call.name))
        table.add_row(*row)
    row = ["all", *[""] * (1 + mixed), "", *_shares(trained.total)]
    row.append(f"{trained.total.mean_abs:.2g}")
    if initial:
        row += ["", *_shares(initial.total)]
    table.add_row(*row, style="bold")
    return table


def _before(call: CallSparsity | None) -> list[str]:
    return ["", "", ""] if call is None else [f"{call.std:.2f}", *_shares(call.shares)]


def _blocks(study: Study) -> Table:
    """List the norms of the within-layer blocks, each beside the activation call it feeds."""
    networks = {kind: found for kind in _KINDS if (found := getattr(study, kind)) is not None}
    networks = dict(reversed(networks.items()))  # trained first, as in the table of calls
    first: Sparsity = next(iter(networks.values()))
    table = _table(padding=2)
    table.add_column("\n\nwithin-layer block of N", overflow="fold", min_width=14)
    for kind in networks:
        table.add_column(f"\n{_KINDS[kind]}\nnorm", justify="right", no_wrap=True)
    table.add_column("\n\nnext activation call", overflow="fold", min_width=14)
    table.add_column("\n\n> τ %", justify="right", no_wrap=True)
    calls = {layer: call for call in first.calls for layer in call.layers}
    for layer in first.block_norms or {}:
        row = [escape(printable(layer))]
        for found in networks.values():
            norm = (found.block_norms or {})[layer]
            row.append(plus_minus(norm.value, norm.stderr))
        call = calls.get(layer)
        row.append(escape(printable(call.name)) if call else "none")
        row.append(_percent(call.shares.above) if call else "")
        table.add_row(*row)
    ends = ["", ""]
    norms = (_all_blocks(found.block_norms or {}) for found in networks.values())
    table.add_row("all", *norms, *ends, style="bold")
    return table


def _all_blocks(norms: Mapping[str, Estimate]) -> str:
    """Format the norm of all blocks together, the root of the sum of their squares."""
    value = math.hypot(*(norm.value for norm in norms.values()))
    errors = [norm.value * (norm.stderr or 0.0) for norm in norms.values()]
    known = all(norm.stderr is not None for norm in norms.values())
    return plus_minus(value, math.hypot(*errors) / value if known and value else None)


def _shares(shares: Shares) -> list[str]:
    return [_percent(shares.nonzero), _percent(shares.above)]


def _percent(share: float) -> str:
    """Format a share in per cent, without rounding anything to none or to all of it."""
    percent = 100 * share
    if 0 < percent < 0.005:
        return f"{percent:.0e}"
    if 99.995 <= percent < 100:
        return "99.99"
    return f"{percent:.2f}" if percent < 100 else "100"


def _table(padding: int = 3) -> Table:
    return Table(box=None, pad_edge=False, padding=(0, padding, 0, 0), header_style="bold")


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
