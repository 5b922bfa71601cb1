"""The gate: from limits and a network, or a report, to a verdict."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from hessdiag import results
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.kernels import undisturbed
from hessdiag.curvature.sampled_fisher import check_labels
from hessdiag.errors import InputError
from hessdiag.gates import readings
from hessdiag.gates.gate_result import GateCost, GateReport, GateSettings
from hessdiag.gates.levels import Levels
from hessdiag.gates.limits import Limit, from_table
from hessdiag.gates.sequential import FIRST_LOOK, SequentialTest, forms_tell
from hessdiag.gates.verdicts import FAIL, INCONCLUSIVE, Finding, judge
from hessdiag.linalg import processes
from hessdiag.linalg.lanczos import LanczosResult
from hessdiag.metrics import metric_table
from hessdiag.metrics.metric import Metric, Missing
from hessdiag.metrics.metric_reading import Reading
from hessdiag.progress import Watch
from hessdiag.results import Result
from hessdiag.settings import MOST_PROBES
from hessdiag.sparsities.sparsity_run import sparsity
from hessdiag.spectra.further_metrics import Conditions, measure
from hessdiag.spectra.spectrum_run import spectrum

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

BASELINE_PROBES = 256
"""Probes where no limits are set: a baseline has to be worth comparing with."""

_IN_SPECTRA = ("spectrum", "fisher")
"""Sources that a spectrum tells of: tr F is tr G, whose probes have bounds, unlike drawn labels."""

Limits = Sequence[Limit] | Mapping[str, Any]
Stored = Result | Mapping[str, Any] | str
"""A report: as such, as the mapping that its JSON is, or its path."""


@undisturbed()
def gate(
    model: nn.Module,
    batches: Iterable[Any],
    limits: Limits = (),
    *,
    baseline: Stored | None = None,
    confidence: float = 0.95,
    max_probes: int = 1024,
    max_seconds: float | None = None,
    seed: int = 0,
    shard: bool | DeviceMesh | None = False,
    on_progress: Watch | None = None,
    **network: Any,
) -> GateReport:
    """Measure what the limits need, with probes until each limit is decided or a budget is spent.

    With probability ``confidence`` no conclusive verdict is wrong, whatever the matrix and however
    few its probes, the repeated looks included; see
    :class:`hessdiag.gates.sequential.SequentialTest`. The eigenvalues of a part lie in their
    intervals but for a chance of 1e-6, which counts; Lanczos goes on until it decides their limits,
    or rounding is all that is left. Loss, accuracy, sparsity and sharpness are exact on the data.
    ``fisher.trace`` is measured as tr G, and ``fisher.nme_trace`` is 0, as eqs. 4-6 of Dauphin,
    Agarwala and Mobahi (2024) say. The interval of a perturbation gap takes the kurtosis of its
    draws for 15 at most, as that of quadratic forms is, which they are to order σ².

    Cost: that of :func:`hessdiag.spectrum` for the parts, eigenvalues and probes needed; of
    classes, kernel and perturbations at most twice that of the last look.

    Args:
        model: any ``nn.Module`` from a batch to one tensor; nothing of it is changed.
        batches: any iterable of (x, y), the same examples each time.
        limits: as ``{"max": {"hessian.trace": 120}, "min": {"accuracy": 0.95}, "max-increase":
            {"nme.frobenius_norm": "10%"}}``, or as Limit; none takes
            readings only, with 256 probes.
        baseline: report, or path of one, that increases are counted from.
        confidence: 1 − α, in (0, 1).
        max_probes: budget, at least 32.
        max_seconds: time after which no probes are added to the first 32.
        seed: of the probes.
        shard: as for :func:`hessdiag.spectrum`; then without metrics that need it whole.
        on_progress: called after each microbatch.
        **network: loss, output, params, bn, dtype, device and unchecked as for
            :func:`hessdiag.spectrum`.

    Raises:
        InputError: bad limits, settings, data or network; an increase without a baseline.
    """
    began = time.perf_counter()
    if isinstance(batches, Iterator):  # read more than once
        batches = list(batches)
    chosen = _settled(limits)
    if not FIRST_LOOK <= max_probes <= MOST_PROBES:
        wanted = f"{FIRST_LOOK} to {MOST_PROBES:,}"
        raise InputError("`max_probes` is out of range", got=max_probes, wanted=wanted)
    if max_seconds is not None and not max_seconds >= 0:
        raise InputError("`max_seconds` is out of range", got=max_seconds, wanted="at least 0")
    bases = _bases(chosen, baseline, confidence)
    network["shard"] = processes.mesh(shard)
    decomposition = Decomposition(model, batches, **network)
    wanted = {
        name: metric_table.parse(name)
        for name in dict.fromkeys([limit.metric for limit in chosen] or metric_table.NAMES)
    }
    known: dict[str, Reading | Missing] = {}
    for name, metric in wanted.items():
        if metric.source == "fisher":
            check_labels(decomposition)
        if metric.name == "fisher.nme_trace":
            known[name] = Reading(0.0)
        elif (
            metric.source == "spectrum"
            and metric.layer is not None
            and metric.layer not in decomposition.layout.slices
        ):
            known[name] = Missing("there is no such parameter")
    sparse = {name: metric for name, metric in wanted.items() if metric.source == "sparsity"}
    if sparse:
        total = sparsity(model, batches, **network).total
        known |= {name: metric.read(total) for name, metric in sparse.items()}
    further = {
        name: metric
        for name, metric in wanted.items()
        if name not in known and metric.source not in _IN_SPECTRA
    }
    repeated = {name: metric for name, metric in further.items() if metric.is_sampled}
    exact = {name: metric for name, metric in further.items() if name not in repeated}
    known |= measure(exact, decomposition, Conditions(FIRST_LOOK, seed))
    spectral = {name: of for name, of in wanted.items() if name not in known | repeated}
    sampled = {name: metric for name, metric in spectral.items() if metric.is_sampled}
    others = {name: metric for name, metric in spectral.items() if not metric.is_sampled}

    levels = Levels.of(chosen, 1 - confidence)
    bases_of = {limit: bases.get(limit) for limit in chosen}
    sequential = [
        [
            (limit, base)
            for limit, base in bases_of.items()
            if limit.metric in group and not isinstance(base, Missing)
        ]
        for group in (sampled, repeated)
    ]
    is_late = None if max_seconds is None else functools.partial(_is_late, began + max_seconds)
    num_sampled = max(sum(map(len, sequential)), 1)
    test, by_looks = (
        SequentialTest(
            limits,
            confidence=1 - levels.sampled * max(len(limits), 1) / num_sampled,
            max_probes=max_probes,
            is_late=is_late,
        )
        for limits in sequential
    )
    count = 0
    for count in by_looks.looks() if repeated else ():
        known |= measure(repeated, decomposition, Conditions(count, seed))
        for limit, _ in sequential[1]:
            by_looks.judge(limit, known[limit.metric])
    first = FIRST_LOOK if chosen else min(BASELINE_PROBES, max_probes)
    # one run each, so that parts of which traces alone are wanted take no Lanczos steps
    how: dict[str, Any] = {"num_probes": first, "max_probes": max_probes, "enough": test}
    if chosen and all(metric.is_trace for metric in sampled.values()):
        parts = {part for metric in sampled.values() for part in metric.parts}
        how["certain"] = True
        how["traces_alone"] = forms_tell(test.alpha / 2, max_probes)
        if how["traces_alone"] and parts == {"gn"}:  # exact, or at the outputs
            how["num_probes"] = 1
    runs: list[tuple[dict[str, Metric], dict[str, Any]]] = [
        (others, {"num_probes": 1, "sharp": functools.partial(_decided, chosen, bases, levels)}),
        (sampled, how),
    ]
    num_probes, num_samples = 0, None
    for group, options in runs:
        if group:
            options |= metric_table.settings(group.values())
            report = spectrum(
                model, batches, seed=seed, on_progress=on_progress, **options, **network
            )
            known |= {name: metric.read(report) for name, metric in group.items()}
            num_probes = max(part.trace.num_probes for part in report.parts.values())
            num_samples = report.num_samples
    return GateReport.judged(
        (
            test.findings.get(limit)
            or by_looks.findings.get(limit)
            or _finding(
                limit, known[limit.metric], bases.get(limit), levels.of_one(limit, num_sampled)
            )
            for limit in chosen
        ),
        GateSettings(confidence, max_probes, max_seconds, seed),
        {name: found for name, found in known.items() if isinstance(found, Reading)},
        GateCost(time.perf_counter() - began, max(count, num_probes if sampled else 0)),
        num_parameters=decomposition.num_parameters,
        num_samples=num_samples,
    )


def review(
    report: Stored,
    limits: Limits,
    *,
    baseline: Stored | None = None,
    confidence: float = 0.95,
) -> GateReport:
    """Hold a stored report against limits; nothing is measured.

    The α of ``confidence`` is shared evenly by the limits on sampled metrics, whose intervals come
    from the samples that reports keep, as in :func:`gate`. Reports of hessdiag 0.1 keep none: they
    decide nothing about such metrics, and of an eigenvalue they know the inner end alone.

    Args:
        report: of a spectrum, a sparsity, a run of training or a gate, or its path; one made by
            hand need hold no more than the limits ask for.
        limits: as for :func:`gate`.
        baseline: likewise.
        confidence: likewise.

    Raises:
        InputError: bad limits, an increase without a baseline.
    """
    began = time.perf_counter()
    chosen = _settled(limits)
    bases = _bases(chosen, baseline, confidence)
    result = results.taken(report, *readings.KINDS, partial=True)
    known = {limit: readings.read(result, limit.metric) for limit in chosen}
    num_sampled = sum(
        limit.parsed.is_sampled and isinstance(found, Reading) for limit, found in known.items()
    )
    levels = Levels.of(chosen, 1 - confidence)
    return GateReport.judged(
        (
            _finding(limit, known[limit], bases.get(limit), levels.of_one(limit, num_sampled))
            for limit in chosen
        ),
        GateSettings(confidence),
        cost=GateCost(time.perf_counter() - began),
    )


def _is_late(end: float) -> bool:
    return processes.agreed(time.perf_counter() >= end)  # all processes stop together


def _settled(limits: Limits) -> tuple[Limit, ...]:
    found = from_table(limits) if isinstance(limits, Mapping) else limits
    return tuple(dict.fromkeys(found))


def _bases(
    limits: Sequence[Limit], baseline: Stored | None, confidence: float
) -> dict[Limit, Reading | Missing]:
    """Read what the increases are counted from."""
    if not 0 < confidence < 1:
        raise InputError("confidence is out of range", got=confidence, wanted="between 0 and 1")
    increases = [limit for limit in limits if limit.kind == "max-increase"]
    if not increases:
        return {}
    if baseline is None:
        raise InputError(
            "there is no baseline to count an increase from",
            got=f"max-increase of {increases[0].metric}",
            hint="give --baseline FILE; gate CHECKPOINT --write-baseline FILE makes one",
        )
    result = results.taken(baseline, *readings.KINDS, what="the baseline", partial=True)
    return {limit: readings.read(result, limit.metric) for limit in increases}


@dataclass(frozen=True)
class _Ends:
    """A part of which nothing is known but its eigenvalues, as metrics read it."""

    parts: Mapping[str, LanczosResult]


def _decided(
    limits: Sequence[Limit],
    bases: Mapping[Limit, Reading | Missing],
    levels: Levels,
    part: str,
    found: LanczosResult,
) -> bool:
    """Tell whether a part's eigenvalues decide all limits on them."""
    return INCONCLUSIVE not in {
        _finding(
            limit, metric.read(_Ends({part: found})), bases.get(limit), levels.of_one(limit)
        ).verdict
        for limit in limits
        if (metric := limit.parsed).end and metric.source == "spectrum" and metric.parts == (part,)
    }


def _finding(
    limit: Limit, reading: Reading | Missing, base: Reading | Missing | None, alpha: float
) -> Finding:
    """Judge what needs no further probes; what is missing fails."""
    if isinstance(reading, Missing):
        return Finding(limit, FAIL, f"it is missing: {reading.reason}")
    if isinstance(base, Missing):
        return Finding(limit, FAIL, f"it is missing in the baseline: {base.reason}", reading)
    metric = limit.parsed
    if base is None:
        return judge(limit, reading, metric.interval(reading, 1 - alpha))
    now, before = (metric.interval(of, 1 - alpha / 2) for of in (reading, base))
    return judge(limit, reading, now, base, before)
