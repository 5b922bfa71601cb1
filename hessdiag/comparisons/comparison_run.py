"""Two networks on the same data and the same probes, or two reports on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from hessdiag.comparisons.changes import (
    Change,
    Overlap,
    bounded,
    independent,
    overlap,
    paired_norm,
    paired_trace,
)
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.errors import InputError
from hessdiag.losses.loss_spec import LossSpec
from hessdiag.metadata import Provenance
from hessdiag.seeds import stream
from hessdiag.settings import settled
from hessdiag.spectra.spectrum_result import Part, Report
from hessdiag.spectra.spectrum_run import Progress, spectrum
from hessdiag.spectra.spectrum_settings import EstimatorSettings, Settings


@dataclass(frozen=True)
class PartChange:
    """How one part of the decomposition differs from A to B.

    Attributes:
        trace: change of the trace.
        frobenius_norm: change of ‖·‖_F.
        top: changes of the largest eigenvalues, the largest first.
        bottom: changes of the smallest, the most negative first.
        overlap: of the eigenspaces of ``top``; None where unknown.
    """

    trace: Change
    frobenius_norm: Change
    top: tuple[Change, ...]
    bottom: tuple[Change, ...]
    overlap: Overlap | None


@dataclass(frozen=True)
class Comparison:
    """Two networks side by side.

    Attributes:
        a: what is known of A.
        b: what is known of B.
        parts: changes by part.
        paired: whether both saw the same probes, one by one.
        notes: what qualifies the intervals.
    """

    a: Report
    b: Report
    parts: dict[str, PartChange]
    paired: bool
    notes: tuple[str, ...] = ()


def compare(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    *,
    loss: LossSpec = "cross-entropy",
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
        loss: "cross-entropy", "mse", a torch loss module, or any mean loss(z, y).
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
        return Comparison(a, b, parts, paired=True)
    note = (
        "the parameters differ in names or shapes: both met probes of their own, the intervals are "
        "those of independent estimates, and there is no overlap of eigenspaces: null"
    )
    return replace(compare_reports(a, b), notes=(note,))


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
    common = [name for name in a.parts if name in b.parts]
    if not common:
        raise InputError(
            "the two reports have no part in common",
            got=f"{_shown(tuple(a.parts))} and {_shown(tuple(b.parts))}",
        )
    note = (
        "reports hold no single probes: the intervals are those of independent estimates, wider "
        "than paired ones between like networks; compare the checkpoints for those, and for the "
        "overlap of eigenspaces: null"
    )
    parts = {name: _independent(a.parts[name], b.parts[name]) for name in common}
    return Comparison(a, b, parts, paired=False, notes=(note,))


def check_same_data(a: Provenance | None, b: Provenance | None, *, hint: str) -> None:
    """Refuse to compare what was, or may have been, measured on different samples.

    Raises:
        InputError: the hashes differ, or one is not known.
    """
    hashes = [of.data_sha256[:12] if of else "data that the report does not name" for of in (a, b)]
    if a is None or b is None or a.data_sha256 != b.data_sha256:
        raise InputError(
            "A and B are not known to have seen the same data",
            got=f"{hashes[0]} and {hashes[1]}",
            wanted="samples of one sha256",
            hint=hint,
        )


def _paired(a: Part, b: Part) -> PartChange:
    assert a.samples is not None
    assert b.samples is not None
    norm = paired_norm(a.samples, b.samples)
    return PartChange(paired_trace(a.samples, b.samples), norm, *_ends(a, b), overlap(a, b))


def _independent(a: Part, b: Part) -> PartChange:
    norm = independent(a.frobenius_norm, b.frobenius_norm)
    return PartChange(independent(a.trace, b.trace), norm, *_ends(a, b), overlap=None)


def _ends(a: Part, b: Part) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    return tuple(map(bounded, a.top, b.top)), tuple(map(bounded, a.bottom, b.bottom))


def _shown(value: str | tuple[str, ...] | None) -> str:
    return "all" if value is None else value if isinstance(value, str) else ", ".join(value)
