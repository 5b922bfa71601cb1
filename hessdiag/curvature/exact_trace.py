"""tr G by gradients of each example from its outputs: exact, or by random signs there.

``tr G = (1/N) Σ_n Σ_k ‖J_nᵀ S_n e_k‖²`` with ``S Sᵀ = B``: for each output a backward pass with the
squared norms of all examples. With random signs u_n in place of e_k one pass has the mean tr G: its
``u_nᵀ (S_nᵀ J_n J_nᵀ S_n) u_n`` is a quadratic form of signs, as Hutchinson's samples are, so that
what bounds the mean of these bounds that of those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hessdiag.curvature.batches import mapped
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.example_gradients import squared_norms
from hessdiag.curvature.forms import FEW, few_examples
from hessdiag.curvature.jet_rules import Unsupported
from hessdiag.curvature.kernels import exact_kernels, undisturbed
from hessdiag.curvature.recorded_uses import Plan, Recorded
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.errors import InputError
from hessdiag.linalg import processes
from hessdiag.linalg.space import Array, signs
from hessdiag.losses.output_loss import AtOutput, Targets
from hessdiag.seeds import stream

MOST_OUTPUTS = 32
_TOLERANCE = 1e-8  # in float64

Directions = Callable[[AtOutput, Tensor, Sequence[int]], Iterator[Tensor]]
"""From the loss at outputs z of examples with these numbers to u, along which ⟨z, u⟩ is squared."""


def gn_trace(decomposition: Decomposition) -> float:
    """Compute tr G exactly, up to rounding.

    Cost: of C outputs about C/2 gradients, and the memory of one.

    Args:
        decomposition: of network, data and loss.

    Raises:
        Unsupported: more than 32 outputs, a parameter whose gradients by example are not known,
            examples that meet, a loss of which no S is known.
    """
    plan = find_plan(decomposition)
    return float(_means(decomposition, plan, _each_output, 1)[0])


def output_forms(
    decomposition: Decomposition,
    draws: Sequence[int],
    seed: int,
    plan: Plan,
    *,
    num_examples: int | None = None,
) -> Array:
    """Compute forms of random signs at the outputs, whose mean is tr G.

    The signs of an example depend on the seed, the draw and the example's number alone.

    Cost: a forward pass, and about a gradient a draw.

    Args:
        decomposition: of network, data and loss.
        draws: their numbers.
        seed: of all signs.
        plan: what :func:`find_plan` found.
        num_examples: take the mean over the first so many alone.

    Returns:
        ``(k,)``.

    Raises:
        Unsupported: the network does in one batch otherwise than in another.
    """

    def directions(at: AtOutput, z: Tensor, numbers: Sequence[int]) -> Iterator[Tensor]:
        for draw in draws:
            yield _signed(at, z, [stream(seed, "outputs", draw, number) for number in numbers])

    return _means(decomposition, plan, directions, len(draws), num_examples)


@undisturbed()
def find_plan(decomposition: Decomposition) -> Plan:
    """Find out what each example's gradient is made of, and put it to the test, in float64.

    The squared norms of FEW examples together, along random signs of each one's own, are compared
    with those of the gradients of each by itself.

    Raises:
        Unsupported: they differ, or are not known.
    """
    if decomposition.risk.sharding is not None or decomposition.risk.bn == "batch":
        raise Unsupported("examples that meet, or parameters spread over processes")
    risk = decomposition.in_type(torch.float64).risk
    x, y = few_examples(*next(iter(risk.microbatches())))

    def directions(at: AtOutput, z: Tensor, numbers: Sequence[int]) -> Iterator[Tensor]:
        yield _signed(at, z, numbers)

    alone = 0.0
    with exact_kernels():
        for n in range(FEW):
            own = mapped(x, lambda t, n=n: t[n : n + 1].clone()), y[slice(n, n + 1)]
            z = risk.outputs(own[0])
            u = _signed(risk.loss.at(z.detach(), own[1]), z, [n])
            parameters = list(risk.parameters.values())
            found = torch.autograd.grad(z, parameters, u, materialize_grads=True)
            alone += sum(float(g.square().sum()) for g in found)
        plan, squares, _ = _squares(risk, x, y, range(FEW), directions, None)
    if abs(sum(squares) - alone) > _TOLERANCE * alone:
        raise Unsupported("a parameter whose gradients by example are not known")
    return plan


@undisturbed()
def _means(
    decomposition: Decomposition,
    plan: Plan,
    directions: Directions,
    size: int,
    num_examples: int | None = None,
) -> Array:
    """Average over the examples: the sum over all directions, or one number for each."""
    risk = decomposition.risk
    sums = torch.zeros(size + 2, dtype=torch.float64, device=risk.device)
    reason = "what another process met"
    with exact_kernels():
        for x, y, numbers in risk.numbered(num_examples):
            try:
                _, squares, weight = _squares(risk, x, y, numbers, directions, plan)
            except Unsupported as error:  # which all processes have to know
                reason = str(error)
                sums[-1] = 1
                break
            sums += sums.new_tensor([*(squares if size > 1 else [sum(squares)]), weight, 0])
            if decomposition.on_microbatch is not None:
                decomposition.on_microbatch()
    if num_examples is None:
        processes.add_up(sums)
    found = sums.cpu().numpy()
    if found[-1]:
        raise Unsupported(reason)
    return found[:-2] / found[-2]


def _squares(
    risk: EmpiricalRisk,
    x: Any,
    y: Tensor | Targets,
    numbers: Sequence[int],
    directions: Directions,
    plan: Plan | None,
) -> tuple[Plan, list[float], float]:
    """Sum the squared norms of a microbatch for each direction; tell the plan and the weight."""
    with Recorded(list(risk.parameters.values()), len(y), plan) as calls, torch.enable_grad():
        z = risk.outputs(mapped(x, Tensor.clone))
    at = risk.loss.at(z.detach(), y)
    total: list[float] = []
    for u in directions(at, z, numbers):
        norms = [squared_norms(parts).sum(dtype=torch.float64) for parts in calls.pulled(z, u)]
        total.append(float(torch.stack(norms).sum()) if norms else 0.0)
    return calls.plan, total, at.weight


def _each_output(at: AtOutput, z: Tensor, _: Sequence[int]) -> Iterator[Tensor]:
    if z.ndim != 2 or z.shape[1] > MOST_OUTPUTS:
        raise Unsupported(f"outputs of shape {tuple(z.shape)}, not one row of few an example")
    for unit in torch.eye(z.shape[1], dtype=z.dtype, device=z.device):
        yield _factored(at, unit.expand_as(z))


def _signed(at: AtOutput, z: Tensor, seeds: Sequence[int]) -> Tensor:
    """Compute S u for random signs u, those of each example from its own seed."""
    if len(z) != len(seeds):
        raise Unsupported("outputs that are not one an example")
    u = torch.empty(z.shape, dtype=torch.int8)
    for row, seed in zip(u, seeds, strict=True):
        row.copy_(signs(row.numel(), torch.Generator().manual_seed(seed)).view_as(row))
    return _factored(at, u.to(z))


def _factored(at: AtOutput, u: Tensor) -> Tensor:
    try:
        return at.factor(u).to(u.dtype)
    except InputError as error:
        raise Unsupported("a loss of which no S is known") from error
