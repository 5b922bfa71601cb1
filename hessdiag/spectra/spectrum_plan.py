"""Choose block, basis and lockstep for a network's size, and refuse what memory cannot hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hessdiag.curvature.as_called import are_apart, fitting_examples
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.memory import available_bytes, held_bytes, linearisation_bytes
from hessdiag.errors import InputError
from hessdiag.linalg.lanczos import default_tolerance
from hessdiag.losses.output_loss import Targets
from hessdiag.spectra.spectrum_settings import Settings

BASIS_BUDGET = 6 << 30
"""Bytes that the Lanczos bases of all parts may take together, unless ``basis_size`` is given."""
_CHUNK_BUDGET = 1 << 30  # bytes of probes and their products asked for in one pass
_DENSITY_PROBES = 4  # probes of the density when top_k asks for fewer
_FEW = 8  # examples in a microbatch, below which rather other things are made smaller
_BASIS_BLOCKS = 24  # blocks in a basis, memory permitting: few problems then need a restart
_BASIS_LEAST, _BASIS_AMPLE = 48, 96  # vectors in one of narrow blocks, which lose to restarts: the
_AMPLE_BUDGET = 1 << 28  # latter where a part's take no more bytes than this


@dataclass(frozen=True)
class Plan:
    """A request, completed by what suits the network.

    Attributes:
        settings: as asked for, with every choice made.
        block_size: Lanczos vectors multiplied at once; 0 without Lanczos.
        basis_size: Lanczos vectors kept for each part.
        chunk: probes asked for in one pass.
        waves: the parts whose Lanczos runs go in lockstep, one wave after another; an empty one is
            of the gradient alone, so that no other vectors are held beside it.
        refine: whether the final Ritz vectors are multiplied once more in float64.
        asked: the request itself.
        bytes_ahead: memory taken before the first pass, and by vectors.
        bytes_per_example: by a linearisation, for each of its examples.
    """

    settings: Settings
    block_size: int
    basis_size: int
    chunk: int
    waves: tuple[tuple[str, ...], ...]
    refine: bool
    asked: Settings
    bytes_ahead: int = 0
    bytes_per_example: float = 0.0

    def num_vectors(self) -> int:
        """Vectors held at once: bases, blocks under way, probes with products, eigenvectors.

        Ritz vectors in float64, with products and residuals, come when the probes have gone.
        """
        num_parts, at_once = len(self.settings.parts), len(self.waves[0])
        basis = 0 if self.settings.host_basis else self.basis_size
        lanczos = at_once * (basis + 4 * self.block_size)
        kept = num_parts * self.settings.top_k if self.settings.eigenvectors else 0
        refined = (4 * at_once + 2) * self.settings.num_eigenvalues if self.refine else 0
        return lanczos + max((1 + num_parts) * self.chunk, refined) + kept + 4

    def with_basis(self, size: int) -> Plan:
        """Give the same plan with Lanczos bases of another size."""
        depth = min(self.settings.depth, max(size // self.block_size, 1))
        settings = dataclasses.replace(self.settings, basis_size=size, depth=depth)
        return dataclasses.replace(self, settings=settings, basis_size=size)

    def predicted_bytes(self, num_examples: int) -> int:
        """Predict the peak memory with so many examples linearised at once."""
        return self.bytes_ahead + math.ceil(self.bytes_per_example * num_examples)

    def changes(self, made: Plan) -> str | None:
        """Say what was changed in a plan so that it fits."""
        found = [
            "probes one at a time" * (self.chunk < made.chunk),
            "Lanczos bases in host memory" * (self.settings.host_basis > made.settings.host_basis),
            "one part after another" * (self.waves != made.waves),
            f"Lanczos bases of {self.basis_size} vectors in place of {made.basis_size}"
            * (self.basis_size < made.basis_size),
        ]
        return f"memory holds no more: {', '.join(filter(None, found))}" if any(found) else None


def make_plan(decomposition: Decomposition, asked: Settings) -> Plan:
    """Complete a request: all parts in lockstep if their bases fit BASIS_BUDGET.

    The choice depends on the network's size and on `memory` alone, not on the machine, so that
    results repeat where they fit.

    Raises:
        InputError: more eigenvalues are asked for than there are.
    """
    size = decomposition.num_parameters
    if size < asked.top_k == Settings().top_k:  # nobody asked for as many
        asked = dataclasses.replace(asked, top_k=size)
    if asked.top_k > size:
        raise InputError(
            "more eigenvalues are asked for than there are",
            got=f"top-k {asked.top_k}",
            wanted=f"at most {size}, the number of parameters",
        )
    vector_bytes = _vector_bytes(decomposition)
    budget, bases, probes = asked.memory_bytes, BASIS_BUDGET, _CHUNK_BUDGET
    if budget is not None:
        bases, probes = budget // 2, min(probes, budget // 8)
    chunk = max(1, min(16, probes // (vector_bytes * (1 + len(asked.parts)))))
    if not asked.density and not asked.top_k:
        waves = (asked.parts,) if chunk > 1 else (asked.parts, ())
        return Plan(asked, 0, 0, chunk, waves, refine=False, asked=asked)
    least = asked.top_k + 1 if asked.top_k else 1  # one more tells what lies beside those asked for
    block = asked.block_size or max(least, _DENSITY_PROBES if asked.density else 1)
    block = min(block, size)
    affordable = bases // vector_bytes
    ample = min(_BASIS_AMPLE, _AMPLE_BUDGET // vector_bytes)
    deep = block * asked.depth if asked.density else 0
    wanted = max(block * _BASIS_BLOCKS, deep, _BASIS_LEAST, ample)
    least = asked.num_eigenvalues + 2 * block
    basis = max(2, min(max(asked.basis_size or min(wanted, affordable - block), least), size))
    settings = dataclasses.replace(
        asked,
        block_size=block,
        basis_size=basis,
        depth=min(asked.depth, max(basis // block, 1)),
        tolerance=asked.tolerance or default_tolerance(decomposition.risk.dtype),
    )
    lockstep = len(asked.parts) * (basis + block) <= affordable
    waves = (asked.parts,) if lockstep else tuple((part,) for part in asked.parts)
    refine = asked.refine and asked.top_k > 0 and decomposition.risk.dtype != torch.float64
    return Plan(settings, block, basis, chunk, waves, refine, asked)


def fitted(decomposition: Decomposition, plan: Plan, x: Any, y: Tensor | Targets) -> Plan:
    """Fit a plan into memory before any long computation, by the least change that does it.

    Microbatches are cut first, which changes no number; then bases go to host memory, parts one
    after another, and bases are halved, which restarts sooner. Half of what is left over may hold
    the linearisations of several microbatches.

    Cost: one gradient on two examples; where microbatches are to be cut, forward passes of four.

    Args:
        decomposition: of the network.
        plan: what is to be held.
        x: inputs of a microbatch.
        y: its targets.

    Raises:
        InputError: all that is not enough.
    """
    risk, budget = decomposition.risk, plan.settings.memory_bytes
    batch = len(y)
    few = fitting_examples(risk, x, y, at_most=2)  # views would be charged for the whole batch
    per_example = linearisation_bytes(risk, *few) / len(few[1])
    if plan.refine:
        per_example *= 2  # in float64
    vector_bytes = _vector_bytes(decomposition)
    available = available_bytes(risk.device)
    available = available if budget is None else min(available, budget)

    def room(plan: Plan) -> int:
        """Count the examples that find room beside the vectors."""
        return math.floor((available - plan.num_vectors() * vector_bytes) / per_example)

    plans = [*_smaller(plan, risk.device, vector_bytes)]
    cut = risk.divisible and (room(plans[0]) >= batch or are_apart(risk))
    for enough in (min(batch, _FEW), 1) if cut else (batch,):
        for smaller in plans:
            if room(smaller) < enough:
                continue
            size = min(batch, room(smaller))
            if size < batch:
                risk.cut.at_most = size
            vectors = smaller.num_vectors() * vector_bytes
            if smaller.chunk > 1:  # else vectors are large, and nothing is kept beside them
                spare = (available - vectors - size * per_example) / 2
                decomposition.kept.num_examples = size + math.floor(spare / per_example)
            return dataclasses.replace(
                smaller,
                bytes_ahead=held_bytes(risk.device) + vectors,
                bytes_per_example=per_example,
            )
    least = plans[-1]
    hint = "a smaller --top-k or fewer --params"
    if room(least) >= 1:
        least, hint = plan, f"--batch-size {max(room(plan), 1)}"
    elif plan.asked.basis_size is not None:
        hint = f"a --basis-size below {plan.asked.basis_size}"
    raise InputError(
        "there is too little memory",
        got=f"{_told(least.num_vectors() * vector_bytes)} for vectors (Lanczos bases of "
        f"{least.basis_size}), and {_told(per_example)} for each of {batch} examples at once",
        wanted=f"at most the {_told(available)} "
        + ("of `memory`" if available == budget else f"that are left on {risk.device}"),
        hint=hint,
    )


def _smaller(plan: Plan, device: torch.device, vector_bytes: int) -> Iterator[Plan]:
    """Give the plan, and others that hold less and less on the device."""
    yield plan
    if plan.chunk > 1:
        plan = dataclasses.replace(plan, chunk=1)
        yield plan
    if not plan.block_size:
        return
    bases = len(plan.waves[0]) * plan.basis_size * vector_bytes
    on_host = device.type == "cuda" and bases < available_bytes(torch.device("cpu")) // 2
    if on_host and not plan.settings.host_basis:
        settings = dataclasses.replace(plan.settings, host_basis=True)
        plan = dataclasses.replace(plan, settings=settings)
        yield plan
    if len(plan.waves) == 1 < len(plan.waves[0]):
        plan = dataclasses.replace(plan, waves=tuple((part,) for part in plan.waves[0]))
        yield plan
    least = max(plan.asked.num_eigenvalues + 2 * plan.block_size, 2)
    while plan.asked.basis_size is None and plan.basis_size > least:
        plan = plan.with_basis(max(plan.basis_size // 2, least))
        yield plan


def _vector_bytes(decomposition: Decomposition) -> int:
    """Tell a vector's memory, of shards a process's share: the same number in all processes."""
    sharding = decomposition.risk.sharding
    shards = 1 if sharding is None else sharding.num_shards
    return -(-decomposition.num_parameters // shards) * decomposition.risk.dtype.itemsize


def _told(num_bytes: float) -> str:
    power = min(max(int(math.log2(max(num_bytes, 1))) // 10, 1), 3)
    return f"{num_bytes / 1024**power:.1f} {'KMG'[power - 1]}iB"
