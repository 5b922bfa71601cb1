"""The largest eigenvalue of a part, as it is or under scales of the parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.linalg.driver import Answer, Request, drive
from hessdiag.linalg.lanczos import (
    LanczosResult,
    RitzValue,
    default_tolerance,
    gaussian_rows,
    lanczos,
)

_BLOCK = 2  # the second one tells what lies beside the eigenvalue, which its interval needs
_BASIS = 48
_NARROW = 1e-3  # of the eigenvalue: an interval that suffices


def largest_eigenvalue(
    decomposition: Decomposition,
    part: str,
    *,
    root: Tensor | None = None,
    max_passes: int = 100,
    seed: int = 0,
) -> RitzValue:
    """Find λ max of A, or of D A D with D = diag(root), with an interval of a thousandth of it.

    The Ritz value has converged before: the further steps, down to what rounding allows, are for
    the outer end, which tells how much larger λ max might be.

    Cost: two products a Lanczos step.

    Args:
        decomposition: of network, data and loss.
        part: A, "hessian", "gn" or "nme".
        root: D's diagonal, flat ``(n,)``.
        max_passes: Lanczos steps.
        seed: of the start.
    """
    risk, size = decomposition.risk, decomposition.num_parameters
    block = min(_BLOCK, size)
    start = gaussian_rows(block, size, seed=seed, dtype=risk.dtype, device=risk.device)
    steps = lanczos(
        start,
        top_k=1,
        ends=(1,),
        basis_size=min(_BASIS, size),
        tolerance=default_tolerance(risk.dtype),
        max_steps=max_passes,
        seed=seed,
        refine=risk.dtype != torch.float64,
        enough=_is_narrow,
    )

    def answer(requests: Sequence[Request]) -> list[Answer]:
        if root is None:
            return decomposition.answer(requests)
        scaled = [Request(root.to(r.vectors) * r.vectors, r.parts) for r in requests]
        return [
            {name: root.to(rows) * rows for name, rows in products.items()}
            for products in decomposition.answer(scaled)
        ]

    return drive({"lanczos": (part, steps)}, answer).results["lanczos"].top[0]


def _is_narrow(found: LanczosResult) -> bool:
    (top,) = found.top
    return top.interval is not None and np.ptp(top.interval) <= _NARROW * abs(top.value)
