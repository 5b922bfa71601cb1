"""What a spectrum is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from hessdiag.errors import InputError, unknown
from hessdiag.metadata import Circumstances
from hessdiag.metrics import metric_table
from hessdiag.parts import PARTS, PartsOption
from hessdiag.settings import MOST_PROBES, option
from hessdiag.subject_options import SeedOption

_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*((?:[KMGT]i?)?B?|)\s*", re.ASCII | re.IGNORECASE)
_UNITS = {
    **dict.fromkeys(("", "B"), 1),
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)},
    **{
        form: 1 << 10 * power
        for power, p in enumerate("KMGT", 1)
        for form in (p, f"{p}I", f"{p}IB")
    },
}
_SIGNS = {"both": (1, -1), "top": (1,), "bottom": (-1,), "none": ()}


@dataclass(frozen=True)
class EstimatorSettings(SeedOption, PartsOption):
    """How traces, norms, eigenvalues and densities are estimated.

    Attributes:
        parts: those wanted, of "hessian", "gn", "nme"; "all" stands for all three.
        num_probes: Rademacher probes of the traces and norms, shared by the parts.
        top_k: eigenvalues at each end of the spectrum; 0 for none.
        ends: which ends: "top", "bottom", "both" or "none", and of one part other ones, as in
            "top,nme=both"; one alone takes fewer products.
        density: whether to compute the spectral density.
        eigenvectors: whether to keep the eigenvectors of the largest eigenvalues.
        depth: Lanczos steps behind the density.
        basis_size: vectors of each part's Lanczos basis; None for what serves within
            BASIS_BUDGET.
        host_basis: whether these lie in the host's memory, from where a GPU reads them: slower.
        block_size: vectors multiplied at once by Lanczos; eigenvalues are found with their
            multiplicity up to it. None for top_k + 1, with density at least 4.
        tolerance: residual over spectral scale of a converged eigenvalue; ten times that over its
            own size for the outermost ones. None for 1e-3 in float32, 1e-10 in float64.
        memory: for vectors and microbatches, beside the network itself, such as "4GiB"; None for
            what the device has free, of which bases take BASIS_BUDGET at most.
        refine: whether to multiply the eigenvectors found once more, in float64, which rids values
            and intervals of float32's rounding at the cost of these products.
        max_passes: passes over the data that Lanczos may take.
        metrics: names of what else to measure, of :data:`hessdiag.metrics.metric_table.FURTHER`.
        seed: of all randomness.
    """

    num_probes: Annotated[int, option("Probes of traces and norms.", ge=1, le=MOST_PROBES)] = 32
    top_k: Annotated[int, option("Eigenvalues at each end.", ge=0)] = 5
    ends: Annotated[
        str,
        option("both, top, bottom or none; of single parts other ones, as in top,nme=both."),
    ] = "both"
    density: Annotated[bool, option("Spectral densities.")] = True
    eigenvectors: Annotated[bool, option("Keep the eigenvectors.", hidden=True)] = False
    depth: Annotated[int, option("Lanczos steps behind the density.", ge=1)] = 20
    basis_size: Annotated[int | None, option("Lanczos vectors kept for each part.", ge=2)] = None
    host_basis: Annotated[bool, option("Keep them in the host's memory.")] = False
    memory: Annotated[
        str | None,
        option(
            "Memory for vectors and microbatches, such as 4GiB. Default: what is free.",
            metavar="SIZE",
        ),
    ] = None
    block_size: Annotated[
        int | None,
        option("Lanczos vectors multiplied at once; multiplicities are right up to it.", ge=1),
    ] = None
    tolerance: Annotated[
        float | None,
        option(
            "Residual over spectral scale of a converged eigenvalue. Default: 1e-3, or 1e-10 in "
            "float64.",
            gt=0,
            lt=1,
        ),
    ] = None
    refine: Annotated[bool, option("Multiply eigenvectors once more in float64.")] = True
    max_passes: Annotated[int, option("Passes Lanczos may take.", ge=1)] = 100
    metrics: Annotated[
        tuple[str, ...],
        option(
            f"What else to measure; may be repeated. Any of {metric_table.FURTHER}; * in the place "
            "of a class for all of them.",
            flag="--metric",
            metavar="NAME",
        ),
    ] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.signs(PARTS[0])
        _ = self.memory_bytes
        metric_table.further(self.metrics)

    def signs(self, part: str) -> tuple[int, ...]:
        """List the ends of a part that are wanted, 1 for the largest eigenvalues.

        Raises:
            InputError: `ends` is none of the ends, or names an unknown part.
        """
        found: dict[str, tuple[int, ...]] = {}
        items = [item.strip().rpartition("=")[::2] for item in self.ends.split(",")]
        for name, end in sorted(items):  # what is for all parts comes first
            if name and name not in PARTS:
                raise unknown("part in `ends`", name, PARTS)
            if end not in _SIGNS:
                raise unknown("end in `ends`", end, tuple(_SIGNS))
            found |= dict.fromkeys((name,) if name else PARTS, _SIGNS[end])
        return found.get(part, _SIGNS["both"])

    @property
    def memory_bytes(self) -> int | None:
        """`memory` as a number; None where nothing is said.

        Raises:
            InputError: it is no size.
        """
        if self.memory is None:
            return None
        match = _SIZE.fullmatch(self.memory)
        size = float(match[1]) * _UNITS[(match[2] or "").upper()] if match else 0
        if not 1 <= size < 1 << 60:
            raise InputError(
                "`memory` is no size", got=repr(self.memory), wanted="such as 4GiB or 500MB"
            )
        return int(size)

    @property
    def num_eigenvalues(self) -> int:
        """Eigenvalues of a part, of all ends; of the part that has most."""
        return self.top_k * max(len(self.signs(part)) for part in self.parts)


@dataclass(frozen=True)
class Settings(EstimatorSettings):
    """How a spectrum is to be computed.

    Attributes:
        per_layer: whether to estimate the trace of each layer's diagonal block.
        rel_error: go on sampling until the half-width of each trace's 95 % interval is at most
            this share of the trace; None to stop at ``num_probes``.
        max_probes: the budget of ``rel_error``.
        finite_radius: radius at which to take finite-radius curvature too; None for none.
    """

    per_layer: Annotated[bool, option("Traces by layer.")] = False
    rel_error: Annotated[
        float | None,
        option(
            "Sample until each trace's 95 % interval is this narrow, relative to the trace.",
            gt=0,
            lt=1,
        ),
    ] = None
    max_probes: Annotated[int, option("Budget of --rel-error.", ge=1, le=MOST_PROBES)] = 1024
    finite_radius: Annotated[
        float | None,
        option(
            "Also take the curvature over steps of this size in each weight, which sees the "
            "kinks that the Hessian of a ReLU network does not.",
            gt=0,
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finite_radius is not None and "hessian" not in self.parts:
            raise InputError(
                "finite-radius curvature is compared with the Hessian's",
                got=f"parts {', '.join(self.parts)}",
                hint="add the part hessian",
            )


@dataclass(frozen=True)
class Chosen(Circumstances, Settings):
    """The settings of a spectrum, completed by what was chosen."""
