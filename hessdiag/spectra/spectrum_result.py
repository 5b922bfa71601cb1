"""What a spectrum is asked for, and what it reports."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from hessdiag.curvature.decomposition import PARTS
from hessdiag.errors import InputError, unknown
from hessdiag.linalg.density import Density
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate, TraceSamples


@dataclass(frozen=True)
class Settings:
    """How a spectrum is to be computed.

    Attributes:
        parts: those wanted, of "hessian", "gn", "nme".
        num_probes: Rademacher probes of the traces and norms, shared by the parts.
        top_k: eigenvalues at each end of the spectrum; 0 for none.
        density: whether to compute the spectral density.
        eigenvectors: whether to keep the eigenvectors of the largest eigenvalues.
        per_layer: whether to estimate the trace of each layer's diagonal block.
        rel_error: go on sampling until the half-width of each trace's 95 % interval is at most
            this share of the trace; None to stop at ``num_probes``.
        max_probes: the budget of ``rel_error``.
        depth: Lanczos steps behind the density.
        basis_size: vectors of each part's Lanczos basis; None for what serves within
            BASIS_BUDGET.
        block_size: vectors multiplied at once by Lanczos; eigenvalues are found with their
            multiplicity up to it. None for max(top_k, 4), without density top_k.
        tolerance: residual over spectral scale of a converged eigenvalue; None for 1e-3 in
            float32, 1e-10 in float64.
        max_passes: passes over the data that Lanczos may take.
        finite_radius: radius at which to take finite-radius curvature too; None for none.
        seed: of all randomness.
    """

    parts: tuple[str, ...] = PARTS
    num_probes: int = 32
    top_k: int = 5
    density: bool = True
    eigenvectors: bool = False
    per_layer: bool = False
    rel_error: float | None = None
    max_probes: int = 1024
    depth: int = 24
    basis_size: int | None = None
    block_size: int | None = None
    tolerance: float | None = None
    max_passes: int = 100
    finite_radius: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise unknown("part", part, PARTS)
        if not self.parts:
            raise InputError("no part is asked for", wanted=", ".join(PARTS))
        lowest = {"num_probes": 1, "top_k": 0, "max_probes": 1, "depth": 1, "max_passes": 1}
        optional = {"basis_size": 2, "block_size": 1}
        for name, low in {**lowest, **optional}.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise InputError(f"{name} is too small", got=value, wanted=f"at least {low}")
        for name in ("rel_error", "tolerance"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise InputError(f"{name} is out of range", got=value, wanted="between 0 and 1")
        radius = self.finite_radius
        if radius is not None and not (math.isfinite(radius) and radius > 0):
            raise InputError("finite_radius is out of range", got=radius, wanted="above 0")
        if radius is not None and "hessian" not in self.parts:
            raise InputError(
                "finite-radius curvature is compared with the Hessian's",
                got=f"parts {', '.join(self.parts)}",
                hint="add the part hessian",
            )


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
