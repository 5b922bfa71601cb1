"""Choose block, basis and lockstep for a network's size, and refuse what memory cannot hold."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.memory import available_bytes, linearisation_bytes
from hessdiag.errors import InputError
from hessdiag.linalg.lanczos import default_tolerance
from hessdiag.losses.output_loss import Targets
from hessdiag.spectra.spectrum_settings import Settings

BASIS_BUDGET = 6 << 30
"""Bytes that the Lanczos bases of all parts may take together, unless ``basis_size`` is given."""
_CHUNK_BUDGET = 1 << 30  # bytes of probes and their products asked for in one pass
_DENSITY_PROBES = 4  # probes of the density when top_k asks for fewer
_BASIS_BLOCKS = 24  # blocks in a basis, memory permitting: few problems then need a restart


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
    """

    settings: Settings
    block_size: int
    basis_size: int
    chunk: int
    waves: tuple[tuple[str, ...], ...]
    refine: bool

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


def make_plan(decomposition: Decomposition, asked: Settings) -> Plan:
    """Complete a request: all parts in lockstep if their bases fit BASIS_BUDGET.

    The choice depends on the network's size alone, not on the machine, so that results repeat.

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
    chunk = max(1, min(16, _CHUNK_BUDGET // (vector_bytes * (1 + len(asked.parts)))))
    if not asked.density and not asked.top_k:
        waves = (asked.parts,) if chunk > 1 else (asked.parts, ())
        return Plan(asked, 0, 0, chunk, waves, refine=False)
    least = asked.top_k + 1 if asked.top_k else 1  # one more tells what lies beside those asked for
    block = asked.block_size or max(least, _DENSITY_PROBES if asked.density else 1)
    block = min(block, size)
    affordable = BASIS_BUDGET // vector_bytes
    wanted = max(block * _BASIS_BLOCKS, block * asked.depth if asked.density else 0, 48)
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
    return Plan(settings, block, basis, chunk, waves, refine)


def check_memory(decomposition: Decomposition, plan: Plan, x: Any, y: Tensor | Targets) -> None:
    """Refuse, before any long computation, what cannot fit; say what would.

    Half of what is left over may hold the linearisations of several microbatches.

    Cost: one gradient on two examples.

    Args:
        decomposition: of the network.
        plan: what is to be held.
        x: inputs of a microbatch.
        y: its targets.

    Raises:
        InputError: vectors and a microbatch together exceed the memory that is left.
    """
    risk = decomposition.risk
    batch = len(y)
    few = (x, y)
    if isinstance(x, Tensor) and batch > 2:
        few = x[:2].clone(), y[:2].clone()  # views would be charged for the whole batch
    per_example = linearisation_bytes(risk, *few) / len(few[1])
    if plan.refine:
        per_example *= 2  # in float64
    vector_bytes = _vector_bytes(decomposition)
    vectors = plan.num_vectors() * vector_bytes
    available = available_bytes(risk.device)
    if vectors + batch * per_example <= available:
        if plan.chunk > 1:  # else vectors are large, and nothing is kept beside them
            spare = (available - vectors - batch * per_example) / 2
            decomposition.kept.num_examples = batch + math.floor(spare / per_example)
        return
    smaller_batch = math.floor((available - vectors) / per_example)
    if smaller_batch >= 1:
        hint = f"--batch-size {smaller_batch}"
    else:
        spare = (available - per_example) / vector_bytes - plan.num_vectors()
        smaller_basis = plan.basis_size + math.floor(spare / len(plan.waves[0]))
        least = plan.settings.num_eigenvalues + 2 * plan.block_size
        hint = "--batch-size 1 " + (
            f"--basis-size {smaller_basis}"
            if smaller_basis >= max(least, 1)
            else "with a smaller --top-k or fewer --params"
        )
    raise InputError(
        "there is too little memory",
        got=f"{_gib(vectors)} for vectors (Lanczos bases of {plan.basis_size}) and "
        f"{_gib(batch * per_example)} for a microbatch of {batch}",
        wanted=f"at most the {_gib(available)} that are left on {risk.device}",
        hint=hint,
    )


def _vector_bytes(decomposition: Decomposition) -> int:
    """Tell a vector's memory, of shards a process's share: the same number in all processes."""
    sharding = decomposition.risk.sharding
    shards = 1 if sharding is None else sharding.num_shards
    return -(-decomposition.num_parameters // shards) * decomposition.risk.dtype.itemsize


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
