"""Two networks on the same data and the same probes, or two reports on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from hessdiag.comparisons.changes import (
    bounded,
    independent,
    overlap,
    paired_norm,
    paired_trace,
)
from hessdiag.comparisons.comparison_result import Change, Comparison, Densities, PartChange
from hessdiag.curvature.heads import OutputSpec
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.errors import InputError
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.losses.loss_spec import LossSpec
from hessdiag.seeds import stream
from hessdiag.settings import settled
from hessdiag.spectra.spectrum_result import Part, Report
from hessdiag.spectra.spectrum_run import Progress, spectrum
from hessdiag.spectra.spectrum_settings import EstimatorSettings, Settings


def compare(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    *,
    loss: LossSpec | None = None,
    output: OutputSpec | None = None,
    params: str | Sequence[str] | None = None,
    bn: str = "eval",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    settings: EstimatorSettings | None = None,
    **changes: Any,
) -> Comparison:
    """Compare H, G and N of two networks on the same data.

    Networks whose chosen parameters have the same names and shapes meet the same probes, so that
    what the probes do to both cancels in the differences, and their eigenspaces can be compared.
    Others meet independent probes.

    Cost: that of a spectrum of each; the eigenvectors of A, k a part, are kept through that of B.

    Args:
        model_a: any ``nn.Module`` from a batch to one tensor; nothing of it is changed.
        model_b: another.
        batches: any iterable of (x, y), the same examples each time.
        loss: a name, a torch loss or any loss(z, y): :func:`hessdiag.losses.loss_spec.resolve`;
            None for the network's own: cross-entropy, but for heads of Hugging Face that say else.
        output: which of the network's outputs, where it returns several: a name, an index or a
            function of what it returns.
        params: glob or globs over parameter names; None for all trainable ones.
        bn: "eval" or "batch".
        dtype: torch.float32 or torch.float64; None for that of the parameters.
        device: None for that of the parameters.
        on_progress: called after each microbatch.
        settings: how to compute; None for the defaults.
        **changes: fields of the settings, in place of those.

    Raises:
        InputError: see :func:`hessdiag.spectrum`; a setting that has no part in a comparison.
    """
    asked = settled(EstimatorSettings, settings, changes)
    if isinstance(batches, Iterator):
        batches = list(batches)
    layouts = [EmpiricalRisk(m, batches, loss, params=params).layout for m in (model_a, model_b)]
    paired = layouts[0] == layouts[1]
    common: dict[str, Any] = {**dataclasses.asdict(asked), "eigenvectors": paired}
    done = 0.0

    def look(model: nn.Module, seed: int, runs_left: int) -> Report:
        def show(state: Progress) -> None:
            if on_progress is not None:
                on_progress(Progress(done + state.passes, done + runs_left * state.expected))

        return spectrum(
            model,
            batches,
            loss=loss,
            output=output,
            params=params,
            bn=bn,
            dtype=dtype,
            device=device,
            on_progress=show,
            settings=settled(Settings, None, {**common, "seed": seed}),
        )

    a = look(model_a, asked.seed, 2)
    done = float(a.cost.passes["total"])
    b = look(model_b, asked.seed if paired else stream(asked.seed, "independent"), 1)
    if paired:
        parts = {name: _paired(part, b.parts[name]) for name, part in a.parts.items()}
        return Comparison.of(a, b, parts, paired=True)
    note = (
        "the parameters differ in names or shapes: both met probes of their own, the intervals are "
        "those of independent estimates, and there is no overlap of eigenspaces: null"
    )
    return _compared(a, b, note)


def compare_reports(a: Report, b: Report) -> Comparison:
    """Compare two reports by what they hold: estimates of independent probes, no eigenvectors.

    Raises:
        InputError: the reports are on different losses, parameters or BatchNorm modes, or have no
            part in common.
    """
    for what, own, other in (
        ("losses", a.loss_name, b.loss_name),
        ("BatchNorm modes", a.bn, b.bn),
        ("parameters", a.params, b.params),
    ):
        if own != other:
            raise InputError(
                f"the two reports are on different {what}",
                got=f"{_shown(own)} and {_shown(other)}",
                hint="take both spectra with the same options",
            )
    if not a.parts.keys() & b.parts.keys():
        raise InputError(
            "the two reports have no part in common",
            got=f"{_shown(tuple(a.parts))} and {_shown(tuple(b.parts))}",
        )
    note = (
        "reports hold no single probes: the intervals are those of independent estimates, wider "
        "than paired ones between like networks; compare the checkpoints for those, and for the "
        "overlap of eigenspaces: null"
    )
    return _compared(a, b, note)


def check_same_data(a: str | None, b: str | None, *, hint: str) -> None:
    """Refuse to compare what was, or may have been, measured on different samples.

    Args:
        a: SHA-256 of A's samples; None if not known.
        b: of B's.
        hint: what to do about it.

    Raises:
        InputError: the hashes differ, or one is not known.
    """
    if a is None or a != b:
        shown = [of[:12] if of else "data that the report does not name" for of in (a, b)]
        raise InputError(
            "A and B are not known to have seen the same data",
            got=f"{shown[0]} and {shown[1]}",
            wanted="samples of one sha256",
            hint=hint,
        )


def _compared(a: Report, b: Report, note: str) -> Comparison:
    """Compare estimates of independent probes."""
    common = [name for name in a.parts if name in b.parts]
    parts = {name: _independent(a.parts[name], b.parts[name]) for name in common}
    return Comparison.of(a, b, parts, note, paired=False)


def _paired(a: Part, b: Part) -> PartChange:
    assert a.samples is not None
    assert b.samples is not None
    norm = paired_norm(a.samples, b.samples)
    return PartChange(
        paired_trace(a.samples, b.samples), norm, *_ends(a, b), overlap(a, b), _densities(a, b)
    )


def _independent(a: Part, b: Part) -> PartChange:
    norm = independent(a.frobenius_norm, b.frobenius_norm)
    trace = independent(a.trace.estimate, b.trace.estimate)
    return PartChange(trace, norm, *_ends(a, b), None, _densities(a, b))


def _ends(a: Part, b: Part) -> tuple[tuple[Change[RitzValue], ...], tuple[Change[RitzValue], ...]]:
    return tuple(map(bounded, a.top, b.top)), tuple(map(bounded, a.bottom, b.bottom))


def _densities(a: Part, b: Part) -> Densities | None:
    return Densities(a.density, b.density) if a.density and b.density else None


def _shown(value: str | tuple[str, ...] | None) -> str:
    return "all" if value is None else value if isinstance(value, str) else ", ".join(value)
