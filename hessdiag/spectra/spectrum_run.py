"""The front door: from a network, data and a request to a report on its Hessian's two parts."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.heads import OutputSpec
from hessdiag.curvature.kernels import undisturbed
from hessdiag.curvature.memory import peak_bytes
from hessdiag.curvature.secants import secant_curvatures, secant_rounding
from hessdiag.linalg import processes
from hessdiag.linalg.density import smooth
from hessdiag.linalg.driver import Algorithm, drive
from hessdiag.linalg.lanczos import LanczosResult, gaussian_rows, lanczos
from hessdiag.linalg.trace import TraceSamples, estimate_mean, hutchinson
from hessdiag.losses.loss_spec import LossSpec
from hessdiag.metrics import metric_table
from hessdiag.metrics.metric import Missing
from hessdiag.metrics.metric_reading import Reading
from hessdiag.progress import Watch
from hessdiag.results import CheckpointOrigin, DataOrigin
from hessdiag.seeds import stream
from hessdiag.settings import settled
from hessdiag.spectra.further_metrics import Conditions, measure
from hessdiag.spectra.pass_ticker import Ticker
from hessdiag.spectra.spectrum_plan import Plan, fitted, make_plan
from hessdiag.spectra.spectrum_result import (
    Checks,
    Cost,
    FiniteRadius,
    Gradient,
    Layer,
    Loss,
    Part,
    Report,
    Trace,
    qualified,
)
from hessdiag.spectra.spectrum_settings import Chosen, Settings
from hessdiag.spectra.trace_sampling import is_precise, probes_of, sample_on

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

StoppingRule = Callable[[str, Mapping[str, TraceSamples]], bool]
"""Says of a part, from the samples of all parts, whether it has been sampled enough."""

EigenvalueRule = Callable[[str, LanczosResult], bool]
"""Says of a part's eigenvalues, once they have converged, whether they are known well enough."""


@undisturbed()
def spectrum(
    model: nn.Module,
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
    enough: StoppingRule | None = None,
    traces_alone: bool = False,
    certain: bool = False,
    sharp: EigenvalueRule | None = None,
    on_progress: Watch | None = None,
    settings: Settings | None = None,
    **changes: Any,
) -> Report:
    """Report traces, norms, extreme eigenvalues and densities of H, G and N.

    Cost: one pass over the data per Lanczos step, all parts and probes in lockstep; the bases of
    the parts are kept in memory (BASIS_BUDGET), one part after another if they do not fit.

    Args:
        model: any ``nn.Module`` from a batch to one tensor; nothing of it is changed.
        batches: any iterable of (x, y), the same examples each time.
        loss: a name, a torch loss or any loss(z, y): :func:`hessdiag.losses.loss_spec.resolve`;
            None for the network's own: cross-entropy, but for heads of Hugging Face that say else.
        output: which of the network's outputs, where it returns several: a name, an index or a
            function of what it returns.
        params: glob or globs over parameter names; None for all trainable ones.
        bn: "eval" or "batch".
        dtype: torch.float32 or torch.float64; None for that of the parameters.
        device: None for that of the parameters.
        shard: cut parameters and vectors over the processes at work, or over the last dimension of
            a mesh of them; see :func:`hessdiag.joined`. Parameters that are DTensors are taken as
            they are. The loss and all numbers are those of one process.
        unchecked: go on where the network's derivatives are found to be wrong.
        enough: asked of each part after ``num_probes`` and after each further chunk of probes
            whether it has enough of them; all parts go on until all have, or until ``max_probes``
            are taken. None: what ``rel_error`` says.
        traces_alone: ``enough`` looks at traces alone, which may then go on without products, as
            those of ``rel_error`` do.
        certain: ``enough`` looks at intervals that are certain, of which products tell more.
        sharp: asked of each part whose eigenvalues have converged whether they suffice; where they
            do not, its tolerance becomes a tenth. None: they do.
        on_progress: called after each microbatch.
        settings: how to compute; None for the defaults.
        **changes: fields of :class:`Settings`, in place of those.

    Raises:
        InputError: bad settings, data or network; too little memory.
    """
    began = time.perf_counter()
    asked = settled(Settings, settings, changes)
    progress = Ticker(on_progress)
    decomposition = Decomposition(
        model,
        batches,
        loss,
        output=output,
        params=params,
        bn=bn,
        dtype=dtype,
        device=device,
        shard=processes.mesh(shard),
        unchecked=unchecked,
        on_microbatch=progress.microbatch,
    )
    made = make_plan(decomposition, asked)
    first = next(iter(decomposition.risk.microbatches()))
    plan = fitted(decomposition, made, *first)
    kept = decomposition.kept.num_examples
    at_once = max(kept, decomposition.risk.cut.at_most or len(first[1]))
    decomposition.inspect(*first)
    del first
    progress.expect(plan)

    samples = {
        part: TraceSamples(
            decomposition.layout.slices if asked.per_layer else None, decomposition.space
        )
        for part in asked.parts
    }
    goes_on = None  # without products, where that serves
    if traces_alone or (enough is None and asked.rel_error is not None):
        goes_on, enough = enough or _precise(asked), None
    results: dict[str, Any] = {}
    passes: dict[str, int] = {"total": 0}
    products: dict[str, int] = {}
    for wave in plan.waves:
        rule = _rule(enough) if wave is plan.waves[0] else None
        algorithms = _algorithms(decomposition, plan, samples, wave, rule, sharp)
        outcome = drive(
            algorithms,
            decomposition.answer,
            on_pass=progress.completed,
            space=decomposition.space,
        )
        results |= outcome.results
        passes |= outcome.passes
        for kind in ("trace", "rayleigh"):
            if (count := passes.pop(kind, None)) is not None:
                passes |= dict.fromkeys((f"{part}.{kind}" for part in asked.parts), count)
        passes["total"] += outcome.num_passes
        for part, count in outcome.num_products.items():
            products[part] = products.get(part, 0) + count

    sampling = None
    if goes_on and not all(goes_on(part, samples) for part in asked.parts):
        sampling, spent = sample_on(
            decomposition,
            plan.settings,
            samples,
            enough=goes_on,
            chunk=plan.chunk,
            on_pass=progress.completed,
            certain=certain,
        )
        for part, count in spent.num_products.items():
            products[part] += count
            passes[f"{part}.trace"] += spent.num_passes
        if not spent.num_products:
            passes["forms"] = spent.num_passes
        passes["total"] += spent.num_passes

    finite_radius = None
    if asked.finite_radius is not None:
        finite_radius = _finite_radius(decomposition, asked, samples["hessian"], progress)
        passes["finite_radius"] = 2 * asked.num_probes
        passes["total"] += passes["finite_radius"]
    gradient = decomposition.gradient()
    further = measure(
        metric_table.further(asked.metrics), decomposition, Conditions(asked.num_probes, asked.seed)
    )
    asymmetries = [found.asymmetry for found in samples.values() if found.asymmetry is not None]
    chosen = Chosen(**vars(plan.settings), **vars(decomposition.risk.circumstances))
    report = Report(
        checkpoint=CheckpointOrigin(num_parameters=decomposition.num_parameters),
        data=DataOrigin(num_samples=gradient.num_examples),
        risk=Loss(decomposition.risk.loss.name, gradient.loss, gradient.accuracy),
        settings=chosen,
        parts={
            part: _part(samples[part], results.get(f"{part}.lanczos"), asked)
            for part in asked.parts
        },
        finite_radius=finite_radius,
        sampling=sampling,
        gradient=Gradient(
            norm=decomposition.space.norm(gradient.vector),
            rayleigh=results["rayleigh"],
        ),
        checks=Checks(
            decomposition.residual(asked.seed),
            max(asymmetries, default=None),
            decomposition.truth,
        ),
        metrics={name: of for name, of in further.items() if isinstance(of, Reading)},
        cost=Cost(
            seconds=time.perf_counter() - began,
            passes=passes,
            products=products,
            peak_memory_bytes=peak_bytes(decomposition.risk.device),
            predicted_memory_bytes=plan.predicted_bytes(min(at_once, gradient.num_examples)),
        ),
        notes=(
            *decomposition.notes,
            *filter(None, (plan.changes(made), decomposition.risk.cut.note)),
            *(f"{name}: {of.reason}" for name, of in further.items() if isinstance(of, Missing)),
        ),
    )
    return qualified(report)


def _algorithms(
    decomposition: Decomposition,
    plan: Plan,
    samples: dict[str, TraceSamples],
    wave: tuple[str, ...],
    enough: StoppingRule | None,
    sharp: EigenvalueRule | None,
) -> dict[str, tuple[str | tuple[str, ...], Algorithm]]:
    """Set up the generators of one wave; with a stopping rule also the sampler of all parts.

    The Rayleigh quotients go with the last wave.
    """
    settings, risk = plan.settings, decomposition.risk
    algorithms: dict[str, tuple[str | tuple[str, ...], Algorithm]] = {}
    if plan.block_size:
        start = gaussian_rows(
            plan.block_size,
            decomposition.layout.size,
            seed=settings.seed,
            dtype=risk.dtype,
            device=risk.device,
            space=risk.space,
        )
        for part in wave:
            signs = settings.signs(part)
            if not (settings.density or signs):
                continue
            algorithms[f"{part}.lanczos"] = (
                part,
                lanczos(
                    start,
                    top_k=settings.top_k if signs else 0,
                    ends=signs,
                    depth=settings.depth if settings.density else 0,
                    basis_size=plan.basis_size,
                    tolerance=settings.tolerance,
                    max_steps=settings.max_passes,
                    seed=stream(settings.seed, "lanczos", part),
                    with_vectors=settings.eigenvectors,
                    refine=plan.refine,
                    space=risk.space.with_host() if settings.host_basis else risk.space,
                    enough=None if sharp is None else functools.partial(sharp, part),
                ),
            )
    if enough is not None:
        rule = enough
        algorithms["trace"] = (
            settings.parts,
            hutchinson(
                probes_of(decomposition, settings.seed),
                samples,
                stop=settings.num_probes,
                chunk=plan.chunk,
                max_probes=settings.max_probes,
                enough=lambda: all(rule(part, samples) for part in settings.parts),
            ),
        )
    if wave is plan.waves[-1]:
        is_known = wave is not plan.waves[0]
        quotients = _rayleigh(decomposition, settings.parts, is_known)
        algorithms["rayleigh"] = settings.parts, quotients
    return algorithms


def _finite_radius(
    decomposition: Decomposition, settings: Settings, samples: TraceSamples, progress: Ticker
) -> FiniteRadius:
    """Take the secants of the probes whose vᵀHv are known already."""
    assert settings.finite_radius is not None
    secants = secant_curvatures(
        decomposition,
        probes_of(decomposition, settings.seed),
        settings.num_probes,
        settings.finite_radius,
        on_pass=progress.completed,
    )
    pointwise = np.array(samples.freeze().quadratic_forms[: settings.num_probes])
    trace = estimate_mean(secants).bounded()
    return FiniteRadius(
        radius=settings.finite_radius,
        trace=trace,
        excess=estimate_mean(secants - pointwise).bounded(),
        rounding=secant_rounding(decomposition, trace.value, settings.finite_radius),
    )


def _precise(settings: Settings) -> StoppingRule:
    return lambda part, samples: is_precise(samples[part], settings.rel_error)


def _rule(enough: StoppingRule | None) -> StoppingRule:
    return enough or (lambda *_: True)


def _rayleigh(
    decomposition: Decomposition, parts: Sequence[str], is_known: bool
) -> Generator[Tensor, Mapping[str, Tensor], dict[str, float | None]]:
    """Compute ĝᵀAĝ; the gradient comes with the first pass, so the product is the second's."""
    if not is_known:
        yield torch.empty(
            0,
            decomposition.layout.size,
            dtype=decomposition.risk.dtype,
            device=decomposition.risk.device,
        )
    gradient = decomposition.gradient().vector
    norm = decomposition.space.norm(gradient)
    if norm == 0:
        return dict.fromkeys(parts)
    unit = (gradient / norm)[None]
    products = yield unit
    return {part: float(decomposition.space.dots(unit, products[part])[0]) for part in parts}


def _part(
    samples: TraceSamples,
    spectral: LanczosResult | None,
    settings: Settings,
) -> Part:
    quadrature = spectral.quadrature if spectral else None
    reached = is_precise(samples, settings.rel_error) if settings.rel_error else None
    layers = None
    if settings.per_layer:
        layers = {name: Layer(trace) for name, trace in samples.layer_traces().items()}
    return Part(
        trace=Trace.of(samples.trace(), reached),
        frobenius_norm=samples.frobenius_norm(),
        top=spectral.top if spectral else (),
        bottom=spectral.bottom if spectral else (),
        density=smooth(quadrature) if quadrature else None,
        blocks=layers,
        samples=samples.freeze(),
    ).keeping(spectral.top_vectors if spectral else None)
