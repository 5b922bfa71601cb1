"""What a spectrum reports."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hessdiag.linalg.density import Density
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate, TraceSamples
from hessdiag.spectra.spectrum_settings import Settings


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
        samples: what each probe told; None in a report read from a file.
        eigenvectors: ``(top_k, n)`` unit eigenvectors of ``top``; None where not asked for.
    """

    trace: Estimate
    frobenius_norm: Estimate
    top: tuple[RitzValue, ...]
    bottom: tuple[RitzValue, ...]
    density: Density | None
    layers: dict[str, Estimate] | None
    target_reached: bool | None
    samples: TraceSamples | None = None
    eigenvectors: Tensor | None = None


@dataclass(frozen=True)
class FiniteRadius:
    """Curvature at a finite radius, from the probes of tr H.

    Attributes:
        radius: r.
        trace: mean of ``vᵀ[g(θ + rv) − g(θ − rv)]/(2r)``, which is tr H for a quadratic risk.
        excess: mean of its difference from ``vᵀHv``, probe by probe.
        rounding: size of the error that rounding makes in both; grows as r falls.
    """

    radius: float
    trace: Estimate
    excess: Estimate
    rounding: float


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
        finite_radius: curvature at a finite radius, or None where not asked for.
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
    finite_radius: FiniteRadius | None = None
