"""What a spectrum reports; the fields are those of its JSON, ``hessdiag.spectrum/1``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Self

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import force_setattr, replace
from torch import Tensor

from hessdiag.codec import Count
from hessdiag.curvature.truth import Truth
from hessdiag.linalg.density import Density
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate, Samples
from hessdiag.metadata import Provenance
from hessdiag.metrics.metric_reading import Reading
from hessdiag.parts import check_part
from hessdiag.results import Measured
from hessdiag.spectra.spectrum_settings import Chosen


class Trace(Estimate, frozen=True, omit_defaults=True):
    """tr A, and whether it is as precise as was asked for.

    Attributes:
        final_error: ``rel_error`` in the end; None if none was asked for.
        target_reached: whether that is at most what was asked for; None likewise.
    """

    final_error: float | None = msgspec.field(name="rel_error", default=None)
    target_reached: bool | None = None

    @classmethod
    def of(cls, found: Estimate, target_reached: bool | None) -> Self:
        """Add to an estimate whether it reached its target."""
        error = None if target_reached is None else found.rel_error
        return cls(found.value, found.stderr, found.ci95, found.num_probes, error, target_reached)

    @property
    def estimate(self) -> Estimate:
        """The estimate without its target."""
        return Estimate(self.value, self.stderr, self.ci95, self.num_probes)


class Layer(Struct, frozen=True):
    """What is known of the diagonal block of one parameter."""

    trace: Estimate


class Part(Struct, frozen=True, kw_only=True, dict=True, omit_defaults=True):
    """What is known of one part A of the decomposition.

    Attributes:
        trace: tr A.
        frobenius_norm: ‖A‖_F.
        top: largest eigenvalues, the largest first.
        bottom: smallest eigenvalues, the most negative first.
        density: spectral density, or None.
        blocks: each layer's diagonal block by parameter name, or None.
        samples: what each probe told; None in a report of hessdiag 0.1.
        eigenvectors: ``(top_k, n)`` unit eigenvectors of ``top``; None where not asked for, and in
            a report read from a file.
    """

    trace: Trace
    frobenius_norm: Estimate
    top: tuple[RitzValue, ...]
    bottom: tuple[RitzValue, ...]
    density: Density | None = None
    blocks: dict[str, Layer] | None = msgspec.field(name="layers", default=None)
    samples: Samples | None = None

    def keeping(self, eigenvectors: Tensor | None) -> Self:
        """Keep in memory what is no part of the JSON."""
        force_setattr(self, "_kept", eigenvectors)
        return self

    @property
    def eigenvectors(self) -> Tensor | None:
        """Unit eigenvectors of ``top``."""
        return self.__dict__.get("_kept")

    @property
    def layers(self) -> dict[str, Estimate] | None:
        """Trace of each layer's diagonal block by parameter name."""
        blocks = self.blocks
        return None if blocks is None else {name: block.trace for name, block in blocks.items()}

    @property
    def target_reached(self) -> bool | None:
        """Whether ``rel_error`` was met; None if none was set."""
        return self.trace.target_reached


class FiniteRadius(Struct, frozen=True):
    """Curvature at a finite radius, from the probes of tr H.

    Attributes:
        radius: r.
        trace: mean of ``vᵀ[g(θ + rv) − g(θ − rv)]/(2r)``, which is tr H for a quadratic risk.
        excess: mean of its difference from ``vᵀHv``, probe by probe.
        rounding: size of the error that rounding makes in both; grows as r falls.
    """

    radius: Annotated[float, Meta(gt=0)]
    trace: Estimate
    excess: Estimate
    rounding: float


class Loss(Struct, frozen=True):
    """The loss at θ.

    Attributes:
        name: of the loss.
        value: L(θ).
        accuracy: share of right predictions, or None.
    """

    name: str
    value: float
    accuracy: float | None


class Gradient(Struct, frozen=True):
    """The gradient at θ.

    Attributes:
        norm: ‖∇L‖.
        rayleigh: ĝᵀAĝ along the unit gradient ĝ, by part.
    """

    norm: Annotated[float, Meta(ge=0)]
    rayleigh: dict[str, float | None]


class Sampling(Struct, frozen=True):
    """How traces were sampled on, after the probes whose products gave the norms.

    Attributes:
        method: "none", where no other trace was left; "products"; "forms" without products, by the
            same probe for all examples; "forms by example", by one of each example's own.
        reason: why it was chosen.
        gain: variance times cost of probes that all examples share, over that of probes by example;
            None where there was no choice.
        exact: the parts whose trace was computed without sampling; that of H is then that of N's
            samples beside it.
        at_outputs: the parts whose trace was sampled by random signs at the network's outputs, a
            backward pass each; that of H is then the sum with N's samples.
    """

    method: str
    reason: str
    gain: float | None = None
    exact: tuple[str, ...] = ()
    at_outputs: tuple[str, ...] = ()


class Checks(Struct, frozen=True):
    """What must vanish but for rounding.

    Attributes:
        decomposition_residual: ‖Hv − (Gv + Nv)‖/‖Hv‖ against an independent H v, on the first
            microbatch.
        symmetry_residual: largest |vᵀAw − wᵀAv|/(‖v‖‖Aw‖) over the parts; None with one probe.
        truth: the derivatives beside those of the module as it is called; None in a report of
            hessdiag 0.1.
    """

    decomposition_residual: float
    symmetry_residual: float | None
    truth: Truth | None = None

    def notes(self, dtype: str) -> Iterator[str]:
        """Say what should not be as it is."""
        limit = _POOR[dtype]
        if self.decomposition_residual > limit:
            yield (
                f"H v and G v + N v are {self.decomposition_residual:.1e} apart, rounding explains "
                f"{limit:.0e}"
            )
        if self.symmetry_residual is not None and self.symmetry_residual > limit:
            yield (
                f"the products are not symmetric: {self.symmetry_residual:.1e}, rounding explains "
                f"{limit:.0e}"
            )
        if self.truth is not None and self.truth.note is not None:
            yield self.truth.note


_POOR = {"float32": 1e-3, "float64": 1e-8}
"""Residuals above these are worth a note."""


class Cost(Struct, frozen=True):
    """What a report took.

    Attributes:
        seconds: wall-clock time.
        passes: passes over the data, by algorithm; ``total`` for all in lockstep.
        products: matrix-vector products, by part.
        peak_memory_bytes: allocated on a GPU, resident on a CPU.
        predicted_memory_bytes: what it was thought to be before; None in older reports.
    """

    seconds: float
    passes: dict[str, Count]
    products: dict[str, Count]
    peak_memory_bytes: Count
    predicted_memory_bytes: Count | None = None


class Report(Measured, frozen=True, kw_only=True, tag="hessdiag.spectrum/1"):
    """The spectrum of a network's Hessian and of its parts.

    Attributes:
        risk: loss and accuracy; ``loss`` in JSON.
        settings: as asked for, completed by what was chosen.
        parts: by name.
        finite_radius: curvature at a finite radius, or None where not asked for.
        sampling: how traces were sampled on to their target, or None where they were not.
        gradient: its norm and the curvature along it.
        checks: of the products.
        metrics: what else was asked for, by name.
        cost: time, passes, products, memory.
        request: hash of the command's options, by which a report that is there is known to serve.
        notes: what qualifies the numbers, and the reason for every None.
    """

    risk: Loss = msgspec.field(name="loss")
    settings: Chosen
    parts: dict[str, Part]
    finite_radius: FiniteRadius | None = None
    sampling: Sampling | None = None
    gradient: Gradient
    checks: Checks
    metrics: dict[str, Reading] = msgspec.field(default_factory=dict[str, Reading])
    cost: Cost
    request: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.parts:
            check_part(name)

    def of(self, provenance: Provenance) -> Self:
        """Name the checkpoint, the network and the data."""
        settings = dataclasses.replace(self.settings, batch_size=provenance.batch_size)
        return replace(super().of(provenance), settings=settings)

    @property
    def loss_name(self) -> str:
        """Name of the loss."""
        return self.risk.name

    @property
    def loss(self) -> float:
        """The loss L(θ)."""
        return self.risk.value

    @property
    def accuracy(self) -> float | None:
        """Share of right predictions, or None."""
        return self.risk.accuracy

    @property
    def gradient_norm(self) -> float:
        """‖∇L‖."""
        return self.gradient.norm

    @property
    def rayleigh(self) -> Mapping[str, float | None]:
        """ĝᵀAĝ along the unit gradient ĝ, by part."""
        return self.gradient.rayleigh

    @property
    def decomposition_residual(self) -> float:
        """‖Hv − (Gv + Nv)‖/‖Hv‖; see :class:`Checks`."""
        return self.checks.decomposition_residual

    @property
    def symmetry_residual(self) -> float | None:
        """Largest asymmetry of a part; see :class:`Checks`."""
        return self.checks.symmetry_residual

    @property
    def dtype(self) -> str:
        """Floating type computed in."""
        return self.settings.dtype

    @property
    def device(self) -> str:
        """Where it was computed."""
        return self.settings.device

    @property
    def bn(self) -> str:
        """BatchNorm mode."""
        return self.settings.bn

    @property
    def params(self) -> tuple[str, ...] | None:
        """Globs over the parameters, or None."""
        return self.settings.params


def qualified(report: Report) -> Report:
    """Add the notes on what qualifies a report: targets missed, eigenvalues not converged."""
    found: list[str] = list(report.notes)
    settings = report.settings
    for name, part in report.parts.items():
        if part.target_reached is False:
            found.append(
                f"{name}: all {part.trace.num_probes} probes spent; the trace's relative error "
                f"is {part.trace.rel_error:.2g}, and {settings.rel_error:g} was asked for"
            )
        elif part.target_reached and part.trace.num_probes:
            found.append(
                f"{name}: the trace's relative error {part.trace.rel_error:.2g} was reached with "
                f"{part.trace.num_probes} probes"
            )
        for end in ("top", "bottom"):
            missing = sum(not ritz.converged for ritz in getattr(part, end))
            if missing:
                found.append(
                    f"{name}: {missing} of {settings.top_k} {end} eigenvalues not converged within "
                    f"{report.cost.passes[f'{name}.lanczos']} passes; see their residuals"
                )
    if (sampling := report.sampling) is not None:
        ways = [f"that of {part} is exact" for part in sampling.exact]
        ways += [f"that of {part} by signs at the outputs" for part in sampling.at_outputs]
        if sampling.method != "none":
            ways.append(f"{sampling.method}, {sampling.reason}")
        elif sampling.at_outputs:
            ways.append(sampling.reason)
        found.append(f"traces after {settings.num_probes} products: {'; '.join(ways)}")
    finite_radius = report.finite_radius
    if finite_radius is not None:
        stderr = finite_radius.excess.stderr or 0.0
        if finite_radius.rounding > max(stderr, 0.01 * abs(finite_radius.trace.value)):
            found.append(
                f"rounding of about {finite_radius.rounding:.2g} drowns the curvature at radius "
                f"{finite_radius.radius:g}; take a larger radius, or float64"
            )
    if settings.num_probes == 1:
        found.append("one probe gives no standard error and no interval: null")
    if report.accuracy is None:
        found.append("the targets are not classes, so there is no accuracy: null")
    found.extend(report.checks.notes(settings.dtype))
    if any(value is None for value in report.rayleigh.values()):
        found.append("the gradient is exactly zero and has no direction: rayleigh is null")
    return replace(report, notes=tuple(found))
