"""Norms of the blocks of H, G and N over pairs of layers, by probes confined to one layer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hessdiag.block_maps.blocks_result import Array, BlockLayer, BlockNorms, Blocks
from hessdiag.block_maps.blocks_settings import Chosen, Settings
from hessdiag.block_maps.confined_probes import squared_norms
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.heads import OutputSpec
from hessdiag.curvature.kernels import undisturbed
from hessdiag.linalg.trace import Estimate, Samples, estimate_mean
from hessdiag.losses.loss_spec import LossSpec
from hessdiag.progress import Watch
from hessdiag.results import CheckpointOrigin, DataOrigin, LossName, Seconds
from hessdiag.settings import settled


@undisturbed()
def blocks(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss: LossSpec | None = None,
    output: OutputSpec | None = None,
    params: str | Sequence[str] | None = None,
    bn: str = "eval",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    unchecked: bool = False,
    on_progress: Watch | None = None,
    settings: Settings | None = None,
    **changes: Any,
) -> Blocks:
    """Report ‖H_lm‖_F, ‖G_lm‖_F and ‖N_lm‖_F for all pairs of layers l and m.

    ``E ‖(A v_m)_l‖² = ‖A_lm‖²_F`` for random signs v_m that are zero outside m, so that one product
    tells of a whole column, and what the probes of l say of m tells of the same block again. All
    terms of N_ll hold φ'', and all but one factor of a block between layers is φ': where φ'' = 0,
    N has no blocks within layers.

    Cost: ``num_probes`` products a layer, or as many as it has entries if those are fewer.

    Args:
        model: any ``nn.Module`` from a batch to one tensor; nothing of it is changed.
        batches: any iterable of (x, y), the same examples each time.
        loss: as :func:`hessdiag.spectrum` takes it.
        output: which of the network's outputs, where it returns several.
        params: glob or globs over parameter names; None for all trainable ones.
        bn: "eval" or "batch".
        dtype: torch.float32 or torch.float64; None for that of the parameters.
        device: None for that of the parameters.
        unchecked: go on where the network's derivatives are found to be wrong.
        on_progress: called after each pass with the products done and to do.
        settings: how to estimate; None for the defaults.
        **changes: fields of the settings, in place of those.

    Raises:
        InputError: bad settings, data or network.

    Source: Dauphin, Agarwala and Mobahi (2024), appendix A.2.
    """
    began = time.perf_counter()
    asked = settled(Settings, settings, changes)
    decomposition = Decomposition(
        model,
        batches,
        loss,
        output=output,
        params=params,
        bn=bn,
        dtype=dtype,
        device=device,
        unchecked=unchecked,
    )
    decomposition.check_whole("a map of blocks")
    risk, layout = decomposition.risk, decomposition.layout
    places = layers(layout.slices, by=asked.by)
    exact = {name for name, place in places.items() if len(place) <= asked.num_probes}
    squares = squared_norms(
        decomposition,
        places,
        asked.parts,
        num_probes=asked.num_probes,
        exact=exact,
        seed=asked.seed,
        on_progress=on_progress,
    )
    gradient = decomposition.gradient()
    return Blocks(
        checkpoint=CheckpointOrigin(num_parameters=layout.size),
        data=DataOrigin(num_samples=gradient.num_examples),
        risk=LossName(risk.loss.name),
        settings=Chosen(**vars(asked), **vars(risk.circumstances)),
        layers=tuple(BlockLayer(name, len(place), name in exact) for name, place in places.items()),
        parts={
            part: _norms(found, [name in exact for name in places])
            for part, found in squares.items()
        },
        cost=Seconds(time.perf_counter() - began),
        truth=decomposition.truth,
        notes=decomposition.notes,
    )


def layers(slices: Mapping[str, slice], *, by: str) -> dict[str, Tensor]:
    """Find where each layer, or each parameter, lies in a flat vector: indices by name."""
    places: dict[str, list[Tensor]] = {}
    for name, at in slices.items():
        of = name if by == "parameter" else name.rpartition(".")[0] or name
        places.setdefault(of, []).append(torch.arange(at.start, at.stop))
    return {name: torch.cat(some) for name, some in places.items()}


def _norms(squares: Array, exact: Sequence[bool]) -> BlockNorms:
    """Turn samples of the columns into norms: both say the same of a block, and what is exact wins.

    The columns have probes of their own, so that the two halves of a block are independent.
    """
    known = np.array(exact)
    halves = squares, squares.transpose(1, 0, 2)
    both = (halves[0] + halves[1]) / 2
    of_column = np.where(known[None, :, None], halves[0], halves[1])
    merged = np.where((known[None, :] ^ known[:, None])[..., None], of_column, both)
    norm = np.sqrt(merged.mean(2))
    deviation = merged.std(2, ddof=1) / math.sqrt(squares.shape[2])
    deviation[known[None, :] | known[:, None]] = 0.0
    stderr = np.divide(deviation, 2 * norm, out=np.zeros_like(norm), where=norm > 0)
    total = merged.sum((0, 1))
    own = np.einsum("llk->k", merged)
    whole = Samples((0.0,) * len(total), tuple(total.tolist())).frobenius_norm()
    return BlockNorms(norm, stderr, _share(own, total), whole)


def _share(own: Array, total: Array) -> Estimate | None:
    """Estimate the ratio of two means from samples in pairs, to first order."""
    if not total.any():
        return None
    ratio = float(own.mean() / total.mean())
    found = estimate_mean(ratio + (own - ratio * total) / total.mean()).bounded()
    if found.ci95 is None:
        return Estimate(ratio, found.stderr, None, found.num_probes)
    low, high = found.ci95
    return Estimate(ratio, found.stderr, (max(low, 0.0), min(high, 1.0)), found.num_probes)
