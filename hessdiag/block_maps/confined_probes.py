"""What probes confined to one layer tell of the blocks of H, G and N."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hessdiag.block_maps.blocks_result import Array
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.linalg.trace import Estimate, Probes, Samples
from hessdiag.progress import Progress, Watch
from hessdiag.seeds import stream

_ROWS = 16  # probes in one pass over the data
_BYTES = 1 << 30  # of probes and products at once


def squared_norms(
    decomposition: Decomposition,
    places: Mapping[str, Tensor],
    parts: Sequence[str],
    *,
    num_probes: int,
    exact: Collection[str] = (),
    seed: int = 0,
    on_progress: Watch | None = None,
) -> dict[str, Array]:
    """Sample ‖(A v_m)_l‖² for random signs v_m that are zero outside m; their mean is ‖A_lm‖²_F.

    Cost: ``num_probes`` products a place, of an exact one as many as it has entries.

    Args:
        decomposition: of network, data and loss.
        places: indices of a flat vector, by name.
        parts: A, of "hessian", "gn" and "nme".
        num_probes: of each place.
        exact: places of at most ``num_probes`` entries that unit vectors take the place of signs
            in: all samples of their columns are ‖A_lm‖²_F itself.
        seed: of the probes.
        on_progress: called after each pass with the products done and to do.

    Returns:
        ``(L, L, num_probes)`` by part, l first.
    """
    risk, names = decomposition.risk, list(places)
    at = [place.to(risk.device) for place in places.values()]
    known = [name in exact for name in names]
    jobs = [
        (column, index)
        for column, place in enumerate(at)
        for index in range(len(place) if known[column] else num_probes)
    ]
    sources = [
        Probes(
            len(place),
            seed=stream(seed, "block", name),
            dtype=risk.dtype,
            device=risk.device,
        )
        for name, place in places.items()
    ]
    found = {part: np.zeros((len(names), len(names), num_probes)) for part in parts}
    size = decomposition.num_parameters
    chunk = max(1, min(_ROWS, _BYTES // ((1 + len(parts)) * size * risk.dtype.itemsize)))
    for start in range(0, len(jobs), chunk):
        some = jobs[start : start + chunk]
        rows = torch.zeros(len(some), size, dtype=risk.dtype, device=risk.device)
        for row, (column, index) in zip(rows, some, strict=True):
            if known[column]:
                row[at[column][index]] = 1
            else:
                row[at[column]] = sources[column].rows(index, index + 1)[0]
        products = decomposition.products(rows, parts)
        for part, table in found.items():
            for product, (column, index) in zip(getattr(products, part), some, strict=True):
                own = [float(product[place].square().sum(dtype=torch.float64)) for place in at]
                if known[column]:
                    table[:, column] += np.array(own)[:, None]
                else:
                    table[:, column, index] = own
        if on_progress is not None:
            done = min(start + chunk, len(jobs))
            on_progress(Progress(done, len(jobs), f"product {done}"))
    return found


def block_norms(
    decomposition: Decomposition,
    *,
    num_probes: int,
    seed: int = 0,
    on_progress: Watch | None = None,
) -> dict[str, Estimate]:
    """Estimate ‖N_ll‖_F for each parameter l, its diagonal block of N.

    Other parameters' blocks do not enter, not even as noise. Where φ'' = 0, N_ll is exactly zero,
    as z is linear in any one parameter that is used once.

    Cost: ``num_probes`` products with N for each parameter.

    Returns:
        Estimates by parameter name.
    """
    slices = decomposition.layout.slices
    places = {name: torch.arange(at.start, at.stop) for name, at in slices.items()}
    squares = squared_norms(
        decomposition,
        places,
        ("nme",),
        num_probes=num_probes,
        seed=seed,
        on_progress=on_progress,
    )["nme"]
    return {
        name: Samples((0.0,) * num_probes, tuple(squares[index, index])).frobenius_norm()
        for index, name in enumerate(places)
    }
