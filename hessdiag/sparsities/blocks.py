"""Within-layer blocks of N: their Frobenius norms, by probes confined to one parameter."""

from __future__ import annotations

import torch

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.linalg.trace import Estimate, Probes, TraceSamples
from hessdiag.progress import Progress, Watch
from hessdiag.seeds import stream

_ROWS = 16  # probes in one pass over the data
_BYTES = 1 << 30  # of probes and products at once


def block_norms(
    decomposition: Decomposition,
    *,
    num_probes: int,
    seed: int = 0,
    on_progress: Watch | None = None,
) -> dict[str, Estimate]:
    """Estimate ‖N_ll‖_F for each parameter l, its diagonal block of N.

    ``E ‖(N v)_l‖² = ‖N_ll‖²_F`` for Rademacher v that are zero outside l; other layers' blocks do
    not enter, not even as noise. Where φ'' = 0, N_ll is exactly zero, as z is linear in any one
    parameter that is used once.

    Cost: ``num_probes`` products with N for each parameter.

    Returns:
        Estimates by parameter name.
    """
    risk, layout = decomposition.risk, decomposition.layout
    samples = {name: TraceSamples() for name in layout.names}
    jobs = [(name, index) for name in layout.names for index in range(num_probes)]
    vector_bytes = layout.size * risk.dtype.itemsize
    chunk = max(1, min(_ROWS, _BYTES // (3 * vector_bytes)))
    probes = {
        name: Probes(size, seed=stream(seed, "block", name), dtype=risk.dtype, device=risk.device)
        for name, size in zip(layout.names, layout.sizes, strict=True)
    }
    for start in range(0, len(jobs), chunk):
        some = jobs[start : start + chunk]
        rows = torch.zeros(len(some), layout.size, dtype=risk.dtype, device=risk.device)
        for row, (name, index) in zip(rows, some, strict=True):
            row[layout.slices[name]] = probes[name].rows(index, index + 1)[0]
        products = decomposition.products(rows, ("nme",)).nme
        assert products is not None
        for row, product, (name, _) in zip(rows, products, some, strict=True):
            at = layout.slices[name]
            samples[name].add(row[None, at], product[None, at])
        if on_progress is not None:
            on_progress(Progress(min(start + chunk, len(jobs)), len(jobs), some[-1][0]))
    return {name: found.frobenius_norm() for name, found in samples.items()}
