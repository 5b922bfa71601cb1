"""How much of a network's second derivatives of activations is there: φ'' at every pre-activation.

N reaches the weights through φ'', so where φ'' is zero the network has no within-layer NME.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hessdiag.block_maps.confined_probes import block_norms
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.heads import OutputSpec
from hessdiag.curvature.kernels import exact_kernels, undisturbed
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.errors import InputError
from hessdiag.linalg import processes
from hessdiag.losses.loss_spec import LossSpec
from hessdiag.nets.profiles import DEFAULT_THRESHOLD, check_threshold
from hessdiag.progress import Watch
from hessdiag.results import CheckpointOrigin, DataOrigin, LossName, Seconds
from hessdiag.settings import MOST_PROBES
from hessdiag.sparsities.calls import Call, Decisions, watching
from hessdiag.sparsities.preactivations import Range, Tally
from hessdiag.sparsities.sparsity_result import (
    Network,
    Shares,
    Sparsity,
    SparsitySettings,
    Study,
    qualified,
)

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@undisturbed()
def sparsity(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss: LossSpec | None = None,
    output: OutputSpec | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    with_nme: bool = False,
    num_probes: int = 8,
    params: str | Sequence[str] | None = None,
    bn: str = "eval",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    shard: bool | DeviceMesh | None = False,
    seed: int = 0,
    on_progress: Watch | None = None,
) -> Sparsity:
    """Measure φ'' at the pre-activations of every activation call.

    Cost: two forward passes over the data; ``with_nme`` adds ``num_probes`` products with N for
    each parameter.

    Args:
        model: any ``nn.Module`` from a batch to one tensor; nothing of it is changed.
        batches: any iterable of (x, y), the same examples each time.
        loss: as for :func:`hessdiag.spectrum`; matters to ``with_nme`` alone.
        output: as for :func:`hessdiag.spectrum`; likewise.
        threshold: τ, in [0, 1).
        with_nme: whether to estimate ‖N_ll‖_F of each parameter's block of N.
        num_probes: probes for each block.
        params: glob or globs over parameter names; None for all trainable ones.
        bn: "eval" or "batch".
        dtype: torch.float32 or torch.float64; None for that of the parameters.
        device: None for that of the parameters.
        shard: as for :func:`hessdiag.spectrum`; then without ``with_nme``.
        seed: of the probes.
        on_progress: called after each pass with the products done and to do.

    Raises:
        InputError: bad settings, data or network; a network without activations.

    Source: Dauphin, Agarwala and Mobahi (2024), section 4 and their figure on sparsity.
    """
    began = time.perf_counter()
    check_threshold(threshold)
    if not 1 <= num_probes <= MOST_PROBES:
        wanted = f"1 to {MOST_PROBES:,}"
        raise InputError("`num_probes` is out of range", got=num_probes, wanted=wanted)
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
    )
    if with_nme:
        decomposition.check_whole("the NME of each parameter")
    risk = decomposition.risk
    ranges: dict[str, Range] = {}
    decided: Decisions = {}
    num_samples = _watch(risk, decided, lambda call: _open(ranges, call).see(call))
    if not ranges:
        raise InputError(
            "the network has no activation that is recognised",
            got=type(risk.model).__name__,
            wanted="calls of torch's activations, or modules of one's own that act elementwise",
            hint="; ".join(_unseen(risk.model)) or None,
        )
    tallies = {name: Tally(found, threshold) for name, found in ranges.items()}

    def count(call: Call) -> None:
        if call.name not in tallies:
            raise InputError(
                "the network ran differently on the same data",
                got=f"a call {call.name} in the second pass alone",
                hint="turn off sampling",
            )
        tallies[call.name].add(call)

    _watch(risk, decided, count)
    for tally in tallies.values():
        tally.check()
    norms = None
    if with_nme:
        norms = block_norms(
            decomposition, num_probes=num_probes, seed=seed, on_progress=on_progress
        )
    network = Network(
        total=_total([tally.shares() for tally in tallies.values()]),
        calls=tuple(tally.result() for tally in tallies.values()),
        block_norms=norms,
    )
    found = Sparsity(
        checkpoint=CheckpointOrigin(num_parameters=decomposition.num_parameters),
        data=DataOrigin(num_samples=num_samples),
        loss=LossName(risk.loss.name),
        settings=SparsitySettings(
            threshold=threshold,
            seed=seed,
            dtype=str(risk.dtype).removeprefix("torch."),
            device=str(risk.device),
            bn=bn,
            batch_size=None,
            num_probes=num_probes,
        ),
        activations=(Study(trained=network),),
        cost=Seconds(time.perf_counter() - began),
        notes=tuple(_unseen(risk.model)),
    )
    return qualified(found)


def _watch(risk: EmpiricalRisk, decided: Decisions, on_call: Callable[[Call], None]) -> int:
    """Run the network over the data once, watched; returns the number of examples.

    With a graph, as that tells which calls depend on the parameters.
    """
    num_samples = 0
    with exact_kernels():
        for x, y in risk.microbatches():
            with watching(risk.network, on_call, decided):
                risk.forward(x)
            num_samples += len(y)
    return num_samples


def _open(ranges: dict[str, Range], call: Call) -> Range:
    if call.name not in ranges:
        ranges[call.name] = Range(call)
    return ranges[call.name]


def _total(parts: Sequence[Shares]) -> Shares:
    count = sum(part.num_preactivations for part in parts)

    def mean(values: Iterable[float]) -> float:
        weighted = (
            value * part.num_preactivations for value, part in zip(values, parts, strict=True)
        )
        return math.fsum(weighted) / count

    return Shares(
        num_preactivations=count,
        nonzero=mean(part.nonzero for part in parts),
        above=mean(part.above for part in parts),
        mean_abs=mean(part.mean_abs or 0.0 for part in parts),
    )


def _unseen(model: nn.Module) -> list[str]:
    return [
        f"the activations within the fused recurrent layer {name} are not seen"
        for name, module in model.named_modules()
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase))
    ]
