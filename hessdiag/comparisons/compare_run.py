"""Two networks on the same data and the same probes, or two reports on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from msgspec import structs
from torch import nn

from hessdiag.comparisons.changes import (
    bounded,
    common,
    dependent,
    independent,
    listed,
    overlap,
    paired_norm,
    paired_trace,
    undefined,
)
from hessdiag.comparisons.compare_result import Change, Comparison, Densities, PartChange
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.heads import OutputSpec
from hessdiag.errors import InputError
from hessdiag.linalg import processes
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.space import FlatSpace
from hessdiag.linalg.trace import Estimate
from hessdiag.losses.loss_spec import LossSpec
from hessdiag.progress import Progress, Watch
from hessdiag.seeds import stream
from hessdiag.settings import settled
from hessdiag.spectra.spectrum_result import Part, Report
from hessdiag.spectra.spectrum_run import spectrum
from hessdiag.spectra.spectrum_settings import EstimatorSettings, Settings

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


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
    shard: bool | DeviceMesh | None = False,
    unchecked: bool = False,
    on_progress: Watch | None = None,
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
        shard: as for :func:`hessdiag.spectrum`; of both networks.
        unchecked: go on where the network's derivatives are found to be wrong.
        on_progress: called after each microbatch.
        settings: how to compute; None for the defaults.
        **changes: fields of the settings, in place of those.

    Raises:
        InputError: see :func:`hessdiag.spectrum`; a setting that has no part in a comparison.
    """
    asked = settled(EstimatorSettings, settings, changes)
    if isinstance(batches, Iterator):
        batches = list(batches)
    mesh = processes.mesh(shard)
    risk, other = (
        Decomposition(model, batches, loss, params=params, shard=mesh).risk
        for model in (model_a, model_b)
    )
    alike = risk.layout == other.layout and risk.space.holds(other.space)
    paired, size, space = not risk.anywhere(not alike), risk.num_parameters, risk.space
    del risk, other
    shared: dict[str, Any] = {**dataclasses.asdict(asked), "eigenvectors": paired}
    if paired and asked.top_k:  # the next eigenvalue tells whether their space is defined
        shared["top_k"] = asked.top_k + (asked.top_k < size)
    done = 0.0

    def look(model: nn.Module, seed: int, runs_left: int) -> Report:
        def show(state: Progress) -> None:
            if on_progress is not None:
                expected = done + runs_left * state.expected
                on_progress(Progress(done + state.done, expected, state.doing))

        return spectrum(
            model,
            batches,
            loss=loss,
            output=output,
            params=params,
            bn=bn,
            unchecked=unchecked,
            dtype=dtype,
            device=device,
            shard=mesh,
            on_progress=show,
            settings=settled(Settings, None, {**shared, "seed": seed}),
        )

    a = look(model_a, asked.seed, 2)
    done = float(a.cost.passes["total"])
    b = look(model_b, asked.seed if paired else stream(asked.seed, "independent"), 1)
    if paired:
        k, notes = min(asked.top_k, size), list[str]()
        parts: dict[str, PartChange] = {}
        for name, part in a.parts.items():
            parts[name], reason = _paired(part, b.parts[name], k, space)
            if reason is not None:
                notes.append(f"{name}: {reason}, so that the eigenspace is arbitrary: overlap null")
        metrics = listed(a, b, paired=True)
        return Comparison.of(_first(a, k), _first(b, k), parts, metrics, *notes, paired=True)
    note = (
        "the parameters differ in names or shapes: both met probes of their own, the intervals are "
        "those of independent estimates, and there is no overlap of eigenspaces: null"
    )
    parts = {name: _independent(part, b.parts[name]) for name, part in a.parts.items()}
    return Comparison.of(a, b, parts, listed(a, b, paired=False), note, paired=False)


def compare_reports(a: Report, b: Report) -> Comparison:
    """Compare two reports by what they hold: what each probe told, but no eigenvectors.

    Reports of one seed have met the same probes and are compared probe by probe; those of 0.1, that
    do not keep what each told, with the sum of both errors.

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
    both = [name for name in a.parts if name in b.parts]
    if not both:
        raise InputError(
            "the two reports have no part in common",
            got=f"{_shown(tuple(a.parts))} and {_shown(tuple(b.parts))}",
        )
    shared = a.settings.seed == b.settings.seed
    kept = all(of.parts[name].samples is not None for of in (a, b) for name in both)
    if shared and kept:
        how, compared = "the reports share a seed, and so their probes, one by one", _by_samples
    elif shared:
        how, compared = "the reports share probes that they do not keep: errors add up", _by_errors
    else:
        how, compared = "the intervals are those of independent estimates", _independent
    parts = {name: compared(a.parts[name], b.parts[name]) for name in both}
    note = f"{how}; reports hold no eigenvectors, hence no overlap of eigenspaces: null"
    metrics = listed(a, b, paired=shared)
    return Comparison.of(a, b, parts, metrics, note, paired=shared and kept)


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


def _paired(a: Part, b: Part, k: int, space: FlatSpace) -> tuple[PartChange, str | None]:
    """Compare parts, and tell why there is no overlap of the k largest."""
    change = _by_samples(a, b)
    change = structs.replace(change, top=change.top[:k], bottom=change.bottom[:k])
    if not (a.top and b.top and k):
        return change, None
    if reason := undefined(a, k) or undefined(b, k):
        return change, reason
    return structs.replace(change, overlap=overlap(a, b, k, space)), None


def _by_samples(a: Part, b: Part) -> PartChange:
    assert a.samples is not None
    assert b.samples is not None
    pair = common(a.samples, b.samples)
    return _changed(a, b, paired_trace(*pair), paired_norm(*pair))


def _by_errors(a: Part, b: Part) -> PartChange:
    trace = dependent(a.trace.estimate, b.trace.estimate)
    return _changed(a, b, trace, dependent(a.frobenius_norm, b.frobenius_norm))


def _independent(a: Part, b: Part) -> PartChange:
    trace = independent(a.trace.estimate, b.trace.estimate)
    return _changed(a, b, trace, independent(a.frobenius_norm, b.frobenius_norm))


def _changed(a: Part, b: Part, trace: Change[Estimate], norm: Change[Estimate]) -> PartChange:
    return PartChange(trace, norm, *_ends(a, b), None, _densities(a, b))


def _first(report: Report, k: int) -> Report:
    """Leave out the eigenvalues after the first k at each end, and the eigenvectors."""
    parts = {
        name: structs.replace(part, top=part.top[:k], bottom=part.bottom[:k])
        for name, part in report.parts.items()
    }
    settings = dataclasses.replace(report.settings, top_k=k)
    return structs.replace(report, parts=parts, settings=settings)


def _ends(a: Part, b: Part) -> tuple[tuple[Change[RitzValue], ...], tuple[Change[RitzValue], ...]]:
    return tuple(map(bounded, a.top, b.top)), tuple(map(bounded, a.bottom, b.bottom))


def _densities(a: Part, b: Part) -> Densities | None:
    return Densities(a.density, b.density) if a.density and b.density else None


def _shown(value: str | tuple[str, ...] | None) -> str:
    return "all" if value is None else value if isinstance(value, str) else ", ".join(value)
