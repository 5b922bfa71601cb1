"""The front door: from a network, data and a request to a report on its Hessian's two parts."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hessdiag.curvature.decomposition import PARTS, Decomposition
from hessdiag.curvature.losses import LossSpec
from hessdiag.curvature.memory import available_bytes, linearisation_bytes, peak_bytes
from hessdiag.errors import InputError, unknown
from hessdiag.linalg.density import Density, smooth
from hessdiag.linalg.driver import Algorithm, drive
from hessdiag.linalg.lanczos import LanczosResult, RitzValue, lanczos
from hessdiag.linalg.trace import Estimate, Probes, TraceSamples, hutchinson
from hessdiag.seeds import stream

BASIS_BUDGET = 8 << 30
"""Bytes that the Lanczos bases of all parts may take together, unless ``basis_size`` is given."""
_CHUNK_BUDGET = 1 << 30  # bytes of probes and their products asked for in one pass
_DENSITY_PROBES = 4  # probes of the density when top_k asks for fewer


@dataclass(frozen=True)
class Settings:
    """How a spectrum is to be computed.

    Attributes:
        parts: those wanted, of "hessian", "gn", "nme".
        num_probes: Rademacher probes of the traces and norms, shared by the parts.
        top_k: eigenvalues at each end of the spectrum; 0 for none.
        density: whether to compute the spectral density.
        per_layer: whether to estimate the trace of each layer's diagonal block.
        rel_error: go on sampling until the half-width of each trace's 95 % interval is at most
            this share of the trace; None to stop at ``num_probes``.
        max_probes: the budget of ``rel_error``.
        depth: Lanczos steps behind the density.
        basis_size: vectors of each part's Lanczos basis; None for what serves within
            BASIS_BUDGET.
        block_size: vectors multiplied at once by Lanczos; eigenvalues are found with their
            multiplicity up to it. None for max(top_k, 4), without density top_k.
        tolerance: residual over spectral scale of a converged eigenvalue; None for 1e-4 in
            float32, 1e-10 in float64.
        max_passes: passes over the data that Lanczos may take.
        seed: of all randomness.
    """

    parts: tuple[str, ...] = PARTS
    num_probes: int = 32
    top_k: int = 5
    density: bool = True
    per_layer: bool = False
    rel_error: float | None = None
    max_probes: int = 1024
    depth: int = 24
    basis_size: int | None = None
    block_size: int | None = None
    tolerance: float | None = None
    max_passes: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise unknown("part", part, (*PARTS, "all"))
        if not self.parts:
            raise InputError("no part is asked for", wanted=", ".join(PARTS))
        lowest = {"num_probes": 1, "top_k": 0, "max_probes": 1, "depth": 2, "max_passes": 1}
        optional = {"basis_size": 2, "block_size": 1}
        for name, low in {**lowest, **optional}.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise InputError(f"{name} is too small", got=value, wanted=f"at least {low}")
        for name in ("rel_error", "tolerance"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise InputError(f"{name} is out of range", got=value, wanted="between 0 and 1")


@dataclass(frozen=True)
class Part:
    """What is known of one part A of the decomposition.

    Attributes:
        trace: tr A.
        frobenius_norm: ‖A‖_F.
        top: largest eigenvalues, the largest first.
        bottom: smallest eigenvalues, the most negative first.
        density: spectral density, or None.
        layers: trace of each layer's diagonal block by parameter name, or None.
        target_reached: whether ``rel_error`` was met; None if none was set.
    """

    trace: Estimate
    frobenius_norm: Estimate
    top: tuple[RitzValue, ...]
    bottom: tuple[RitzValue, ...]
    density: Density | None
    layers: dict[str, Estimate] | None
    target_reached: bool | None


@dataclass(frozen=True)
class Cost:
    """What a report took.

    Attributes:
        seconds: wall-clock time.
        passes: passes over the data, by algorithm; ``total`` for all in lockstep.
        products: matrix-vector products, by part.
        peak_memory_bytes: allocated on a GPU, resident on a CPU.
    """

    seconds: float
    passes: dict[str, int]
    products: dict[str, int]
    peak_memory_bytes: int


@dataclass(frozen=True)
class Report:
    """The spectrum of a network's Hessian and of its parts.

    Attributes:
        parts: by name.
        loss_name: name of the loss.
        loss: its value L(θ).
        accuracy: share of right predictions, or None.
        num_parameters: dimension n.
        num_samples: examples in the data.
        gradient_norm: ‖∇L‖.
        rayleigh: ĝᵀAĝ along the unit gradient ĝ, by part.
        decomposition_residual: ‖Hv − (Gv + Nv)‖/‖Hv‖ against an independent H v, on the first
            microbatch.
        symmetry_residual: largest |vᵀAw − wᵀAv|/(‖v‖‖Aw‖) over the parts; None with one probe.
        settings: as asked for, completed by what was chosen.
        dtype: floating type computed in.
        device: where.
        bn: BatchNorm mode.
        params: globs over the parameters, or None.
        cost: time, passes, products, memory.
    """

    parts: dict[str, Part]
    loss_name: str
    loss: float
    accuracy: float | None
    num_parameters: int
    num_samples: int
    gradient_norm: float
    rayleigh: dict[str, float | None]
    decomposition_residual: float
    symmetry_residual: float | None
    settings: Settings
    dtype: str
    device: str
    bn: str
    params: tuple[str, ...] | None
    cost: Cost


@dataclass
class Progress:
    """Where a run stands: ``passes`` done (a fraction within one) of about ``expected``."""

    passes: float = 0.0
    expected: float = 1.0


def spectrum(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss: LossSpec = "cross-entropy",
    params: str | Sequence[str] | None = None,
    bn: str = "eval",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> Report:
    """Report traces, norms, extreme eigenvalues and densities of H, G and N.

    Cost: one pass over the data per Lanczos step, all parts and probes in lockstep; the bases of
    the parts are kept in memory (BASIS_BUDGET), one part after another if they do not fit.

    Args:
        model: any ``nn.Module`` from a batch to one tensor; nothing of it is changed.
        batches: any iterable of (x, y), the same examples each time.
        loss: "cross-entropy", "mse", a torch loss module, or any mean loss(z, y).
        params: glob or globs over parameter names; None for all trainable ones.
        bn: "eval" or "batch".
        dtype: torch.float32 or torch.float64; None for that of the parameters.
        device: None for that of the parameters.
        on_progress: called after each microbatch.
        **settings: fields of :class:`Settings`.

    Raises:
        InputError: bad settings, data or network; too little memory.
    """
    began = time.perf_counter()
    progress = _Ticker(on_progress)
    decomposition = Decomposition(
        model,
        batches,
        loss,
        params=params,
        bn=bn,
        dtype=dtype,
        device=device,
        on_microbatch=progress.microbatch,
    )
    asked = Settings(**settings)
    plan = _plan(decomposition, asked)
    _check_memory(decomposition, plan)
    progress.expect(plan)

    samples = {
        part: TraceSamples(decomposition.layout.slices if asked.per_layer else None)
        for part in asked.parts
    }
    results: dict[str, Any] = {}
    passes: dict[str, int] = {"total": 0}
    products: dict[str, int] = {}
    for wave in plan.waves:
        first = wave is plan.waves[0]
        algorithms = _algorithms(decomposition, plan, samples, wave, with_samplers=first)
        outcome = drive(algorithms, decomposition.answer, on_pass=progress.completed)
        results |= outcome.results
        passes |= outcome.passes
        passes["total"] += outcome.num_passes
        for part, count in outcome.num_products.items():
            products[part] = products.get(part, 0) + count

    gradient = decomposition.gradient()
    asymmetries = [found.asymmetry for found in samples.values() if found.asymmetry is not None]
    return Report(
        parts={
            part: _part(samples[part], results.get(f"{part}.lanczos"), results, part, plan)
            for part in asked.parts
        },
        loss_name=decomposition.risk.loss.name,
        loss=gradient.loss,
        accuracy=gradient.accuracy,
        num_parameters=decomposition.num_parameters,
        num_samples=gradient.num_examples,
        gradient_norm=float(gradient.vector.norm(dtype=torch.float64)),
        rayleigh={part: results[f"{part}.rayleigh"] for part in asked.parts},
        decomposition_residual=decomposition.residual(asked.seed),
        symmetry_residual=max(asymmetries, default=None),
        settings=plan.settings,
        dtype=str(decomposition.risk.dtype).removeprefix("torch."),
        device=str(decomposition.risk.device),
        bn=bn,
        params=(params,) if isinstance(params, str) else tuple(params) if params else None,
        cost=Cost(
            seconds=time.perf_counter() - began,
            passes=passes,
            products=products,
            peak_memory_bytes=peak_bytes(decomposition.risk.device),
        ),
    )


@dataclass(frozen=True)
class _Plan:
    """Settings completed by what suits the network, and the parts that run in lockstep."""

    settings: Settings
    block_size: int
    basis_size: int
    chunk: int
    waves: tuple[tuple[str, ...], ...]

    @property
    def with_lanczos(self) -> bool:
        return self.block_size > 0

    def vector_count(self) -> int:
        """Vectors held at once: bases, blocks with their products, probes with theirs."""
        num_parts = len(self.waves[0])
        lanczos_vectors = num_parts * (self.basis_size + 4 * self.block_size)
        return lanczos_vectors + (1 + num_parts) * self.chunk + 4


def _plan(decomposition: Decomposition, asked: Settings) -> _Plan:
    """Choose block, basis and waves: everything in lockstep if the bases fit BASIS_BUDGET."""
    size = decomposition.num_parameters
    if asked.top_k > size:
        raise InputError(
            "more eigenvalues are asked for than there are",
            got=f"top-k {asked.top_k}",
            wanted=f"at most {size}, the number of parameters",
        )
    vector_bytes = size * decomposition.risk.dtype.itemsize
    chunk = max(1, min(16, _CHUNK_BUDGET // (vector_bytes * (1 + len(asked.parts)))))
    if not asked.density and not asked.top_k:
        return _Plan(asked, 0, 0, chunk, (asked.parts,))
    block = asked.block_size or max(asked.top_k, _DENSITY_PROBES if asked.density else 1)
    block = min(block, size)
    needed = min(2 * asked.top_k + 2 * block, size)
    wanted = max(4 * asked.top_k + 4 * block, block * asked.depth if asked.density else 0)
    affordable = BASIS_BUDGET // vector_bytes
    lockstep = affordable >= len(asked.parts) * (wanted + block)
    basis = asked.basis_size or min(wanted, affordable - block)
    basis = min(max(basis, needed), size)
    depth = max(1, min(asked.depth, basis // block)) if asked.density else 0
    settings = dataclasses.replace(asked, block_size=block, basis_size=basis, depth=depth)
    waves = (asked.parts,) if lockstep else tuple((part,) for part in asked.parts)
    return _Plan(settings, block, basis, chunk, waves)


def _check_memory(decomposition: Decomposition, plan: _Plan) -> None:
    """Refuse, before any long computation, what cannot fit; say what would.

    Raises:
        InputError: vectors and microbatches together exceed the memory that is left.
    """
    risk = decomposition.risk
    x, y = next(iter(risk.microbatches()))
    batch = len(y)
    if isinstance(x, Tensor) and batch > 2:
        per_example = linearisation_bytes(risk, x[:2], y[:2]) / 2
    else:
        per_example = linearisation_bytes(risk, x, y) / batch
    vector_bytes = decomposition.num_parameters * risk.dtype.itemsize
    vectors = plan.vector_count() * vector_bytes
    available = available_bytes(risk.device)
    if vectors + batch * per_example <= available:
        return
    smaller_batch = int((available - vectors) // per_example) if per_example else batch
    surplus = (available - per_example) / vector_bytes - plan.vector_count() + plan.basis_size
    raise InputError(
        "there is too little memory",
        got=f"{_gib(vectors)} for vectors (Lanczos basis of {plan.basis_size}) and "
        f"{_gib(batch * per_example)} for a microbatch of {batch}",
        wanted=f"at most the {_gib(available)} that are left on {risk.device}",
        hint=f"--batch-size {smaller_batch}"
        if smaller_batch >= 1
        else f"--batch-size 1 --basis-size {max(int(surplus / len(plan.waves[0])), 2)}, "
        "or one --part at a time",
    )


def _algorithms(
    decomposition: Decomposition,
    plan: _Plan,
    samples: dict[str, TraceSamples],
    wave: tuple[str, ...],
    *,
    with_samplers: bool,
) -> dict[str, tuple[str, Algorithm]]:
    """Set up the generators of one wave; the first wave also samples for all parts."""
    settings, risk = plan.settings, decomposition.risk
    probes = Probes(
        decomposition.num_parameters, seed=settings.seed, dtype=risk.dtype, device=risk.device
    )
    algorithms: dict[str, tuple[str, Algorithm]] = {}
    if with_samplers:
        for part in settings.parts:
            algorithms[f"{part}.trace"] = (
                part,
                hutchinson(
                    probes,
                    samples[part],
                    start=min(plan.block_size, settings.num_probes),
                    stop=settings.num_probes,
                    chunk=plan.chunk,
                    max_probes=settings.max_probes,
                    enough=functools.partial(_precise, rel_error=settings.rel_error),
                ),
            )
            algorithms[f"{part}.rayleigh"] = part, _rayleigh(decomposition)
    if plan.with_lanczos:
        start = probes.rows(0, plan.block_size)
        for part in wave:
            algorithms[f"{part}.lanczos"] = (
                part,
                lanczos(
                    start,
                    top_k=settings.top_k,
                    depth=settings.depth if settings.density else 0,
                    basis_size=plan.basis_size,
                    tolerance=settings.tolerance,
                    max_steps=settings.max_passes,
                    seed=stream(settings.seed, "lanczos", part),
                    watch=functools.partial(_share, samples[part], settings.num_probes),
                ),
            )
    return algorithms


def _share(samples: TraceSamples, num_probes: int, probes: Tensor, products: Tensor) -> None:
    """Let the products of Lanczos's starting probes serve as trace samples."""
    samples.add(probes[:num_probes], products[:num_probes])


def _precise(samples: TraceSamples, rel_error: float | None) -> bool:
    return rel_error is None or samples.trace().rel_error <= rel_error


def _rayleigh(decomposition: Decomposition) -> Generator[Tensor, Tensor, float | None]:
    """Compute ĝᵀAĝ; the gradient comes with the first pass, so the product is the second's."""
    yield torch.empty(
        0,
        decomposition.num_parameters,
        dtype=decomposition.risk.dtype,
        device=decomposition.risk.device,
    )
    gradient = decomposition.gradient().vector
    norm = gradient.norm(dtype=torch.float64)
    if norm == 0:
        return None
    unit = (gradient / norm)[None]
    return float((unit * (yield unit)).sum(dtype=torch.float64))


def _part(
    samples: TraceSamples,
    spectral: LanczosResult | None,
    results: dict[str, Any],
    part: str,
    plan: _Plan,
) -> Part:
    settings = plan.settings
    quadrature = spectral.quadrature if spectral else None
    return Part(
        trace=samples.trace(),
        frobenius_norm=samples.frobenius_norm(),
        top=spectral.top if spectral else (),
        bottom=spectral.bottom if spectral else (),
        density=smooth(quadrature) if quadrature else None,
        layers=samples.layer_traces() if settings.per_layer else None,
        target_reached=results[f"{part}.trace"] if settings.rel_error else None,
    )


class _Ticker:
    """Turns microbatches and passes into Progress, guessing the passes still to come."""

    def __init__(self, callback: Callable[[Progress], None] | None) -> None:
        self.callback = callback
        self.passes = 0
        self.microbatches = 0  # of the pass under way
        self.per_pass = 0
        self.at_least = 2.0

    def expect(self, plan: _Plan) -> None:
        """Set the guess: the quadrature's steps, or what eigenvalues commonly take."""
        settings = plan.settings
        sampling = settings.num_probes / plan.chunk
        steps = max(settings.depth if settings.density else 0, 15 if settings.top_k else 0)
        self.at_least = len(plan.waves) * max(steps, sampling, 2)

    def microbatch(self) -> None:
        self.microbatches += 1
        self._report()

    def completed(self, _: int) -> None:
        self.per_pass, self.microbatches = self.microbatches, 0
        self.passes += 1
        self._report()

    def _report(self) -> None:
        if self.callback is not None:
            fraction = self.microbatches / self.per_pass if self.per_pass else 0.0
            done = self.passes + min(fraction, 1.0)
            self.callback(Progress(done, max(self.at_least, 1.15 * done)))


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
