"""Quadratic forms without products: vᵀHv, vᵀGv and vᵀNv by forward passes alone.

With ``z(t) = z(θ + t v)``, a forward pass in second-order Taylor mode gives ``ż = Jv`` and z̈, and
with them ``vᵀGv = Σ ⟨ż, Bż⟩`` and ``vᵀNv = Σ ⟨c, z̈⟩``; vᵀHv is their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hessdiag.curvature.batches import mapped, tensors_in
from hessdiag.curvature.composition import Composed
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.direct import direct_product
from hessdiag.curvature.example_signs import FIRST, REPEATED, SECOND, ExampleSigns, Signed
from hessdiag.curvature.jet_rules import Unsupported
from hessdiag.curvature.jets import Jets
from hessdiag.curvature.kernels import exact_kernels, undisturbed
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.errors import InputError, NotFinite
from hessdiag.linalg import processes
from hessdiag.linalg.space import Array
from hessdiag.losses.output_loss import Targets

FEW = 5
"""Examples of a test: more than features, as a rule, and more than two, who may not meet yet."""
_TOLERANCE = 1e-8  # in float64


@undisturbed()
def quadratic_forms(
    decomposition: Decomposition,
    rows: Tensor,
    signs: ExampleSigns | None = None,
    *,
    num_examples: int | None = None,
) -> dict[str, Array]:
    """Compute vᵀHv, vᵀGv and vᵀNv of each row, in one pass over the data.

    Cost: 5/3 gradients a row, the memory of a forward pass, and no graph.

    Args:
        decomposition: of network, data and loss.
        rows: v, ``(k, n)``.
        signs: make of each v one vector an example, as :func:`find_signs` found them fit to; the
            forms are then those of the mean matrix of the same traces. None for v itself.
        num_examples: take the mean over the first so many alone.

    Returns:
        By part, ``(k,)``.

    Raises:
        Unsupported: the network does what Taylor mode has no rule for.
        NotFinite: a form.
    """
    risk, layout = decomposition.risk, decomposition.layout
    check_supported(risk)
    vectors = [layout.unflatten(row) for row in rows]
    sums = torch.zeros(len(rows), 2, dtype=torch.float64, device=risk.device)  # of G and of N
    tally = torch.zeros(4, dtype=torch.float64, device=risk.device)
    reason = "what another process met"
    with exact_kernels():
        for x, y, numbers in risk.numbered(num_examples):
            drawn = None if signs is None else signs.draw(numbers, rows)
            try:
                for index, v in enumerate(vectors):
                    tangents = v if signs is None or drawn is None else signs.tangents(v, drawn)
                    gn, nme, total, weight = microbatch_forms(risk, x, y, tangents)
                    if any(isinstance(t, Signed) and t.is_shared for t in tangents):
                        raise Unsupported("a weight used in one batch otherwise than in another")
                    sums[index] += sums.new_tensor([gn, nme])
                    tally += tally.new_tensor([total, weight, len(y), 0]) * (index == 0)
            except Unsupported as error:  # which all processes have to know
                reason = str(error)
                tally[3] = 1
                break
            if decomposition.on_microbatch is not None:
                decomposition.on_microbatch()
    if num_examples is None:
        processes.add_up(sums)
        processes.add_up(tally)
    loss, weight, count, failures = tally.tolist()
    if failures:
        raise Unsupported(reason)
    if num_examples is None:
        decomposition.check_unchanged(loss / weight, int(count))
    gn, nme = (sums / weight).T.cpu().numpy()
    forms = {"hessian": gn + nme, "gn": gn, "nme": nme}
    for part, values in forms.items():
        if not np.isfinite(values).all():
            raise NotFinite(f"a quadratic form of the {part} is not finite", got="NaN or Inf")
    return forms


@undisturbed()
def find_signs(decomposition: Decomposition, seed: int) -> ExampleSigns:
    """Find for which parameters each example can have tangents of its own, and put it to the test.

    A parameter that is used otherwise than as a layer's weight or bias keeps one tangent for all
    examples. The forms of FEW examples together must be the sum of those of each alone, whose
    tangents were made by hand, and those the products of another path: so that examples which meet,
    or which are not what comes first in a tensor, are found out.

    Cost: some fifteen gradients of FEW examples, in float64.

    Raises:
        Unsupported: examples cannot have their own; says why.
    """
    check_supported(decomposition.risk)
    if decomposition.risk.bn == "batch":
        raise Unsupported("normalisation by the batch, in which examples meet")
    found = None
    if processes.is_first():
        try:
            found = _tested_signs(decomposition, seed)
        except Unsupported as error:
            found = error
    found = processes.agreed(found)
    if isinstance(found, Unsupported):
        raise found
    return ExampleSigns(decomposition.layout, seed, found)


def _tested_signs(decomposition: Decomposition, seed: int) -> dict[int, int]:
    """Find the places of :class:`ExampleSigns`; where a test finds them wrong, first ones alone."""
    layout, risk = decomposition.layout, decomposition.in_type(torch.float64).risk
    x, y = few_examples(*next(iter(risk.microbatches())))
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(1, layout.size, generator=generator, dtype=torch.float64).to(risk.device)
    v = layout.unflatten(v[0])
    signs = ExampleSigns(layout, seed)
    drawn = signs.draw(range(FEW), v[0])
    own = [(mapped(x, lambda t, n=n: t[n : n + 1].clone()), y[slice(n, n + 1)]) for n in range(FEW)]
    with exact_kernels():
        tangents = signs.tangents(v, drawn)
        microbatch_forms(risk, x, y, tangents)
        seen = {
            i: t.seen for i, t in enumerate(tangents) if isinstance(t, Signed) and not t.is_shared
        }
        for taken in ({FIRST}, {FIRST, REPEATED}, {SECOND}), ({FIRST},):
            found = {
                i: max(places, default=FIRST)
                for i, places in seen.items()
                if any(map(places.issubset, taken))
            }
            tangents = ExampleSigns(layout, seed, found).tangents(v, drawn)
            together = np.array(microbatch_forms(risk, x, y, tangents))
            alone = np.zeros((FEW, 4))
            for n in range(FEW):
                each = [t.of(n) if isinstance(t, Signed) else t for t in tangents]
                alone[n] = microbatch_forms(risk, *own[n], each)
            if (np.abs(together - alone.sum(0)) <= _TOLERANCE * np.abs(alone).sum(0)).all():
                return found
    raise Unsupported("examples that meet, or that do not come first in each tensor")


@undisturbed()
def check_forms(decomposition: Decomposition, seed: int) -> None:
    """Compare a form of FEW examples with that of a product by another path, in float64.

    Cost: some five gradients of FEW examples.

    Raises:
        Unsupported: they differ, or there are no forms.
    """
    check_supported(decomposition.risk)
    layout, risk = decomposition.layout, decomposition.in_type(torch.float64).risk
    x, y = few_examples(*next(iter(risk.microbatches())))
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(layout.size, generator=generator, dtype=torch.float64)
    v = layout.unflatten(v.to(risk.device))
    with exact_kernels():
        gn, nme, *_ = microbatch_forms(risk, x, y, v)
        _, _, product = direct_product(risk, mapped(x, Tensor.clone), y, v)
    hessian = sum(float((a * b).sum()) for a, b in zip(v, product, strict=True))
    if not processes.agreed(abs(hessian - gn - nme) <= _TOLERANCE * (abs(gn) + abs(nme))):
        raise Unsupported("forms of Taylor mode and products that differ")


def few_examples(x: Any, y: Tensor | Targets) -> tuple[Any, Tensor | Targets]:
    """Take FEW examples from all over a microbatch; of fewer, some several times."""
    if any(t.ndim == 0 or len(t) != len(y) for t in tensors_in(x)):
        raise Unsupported("inputs of which one cannot tell what belongs to an example")
    take = [n * len(y) // FEW for n in range(FEW)]
    if isinstance(y, Targets):
        return mapped(x, lambda t: t[take]), Targets(y.values[take], y.weights[take])
    return mapped(x, lambda t: t[take]), y[take]


def check_supported(risk: EmpiricalRisk) -> None:
    """Refuse what forms are not computed for.

    Raises:
        Unsupported: parameters or a batch that are spread over processes.
    """
    if risk.sharding is not None:
        raise Unsupported("parameters that are spread over processes")
    if risk.bn == "batch" and processes.count() > 1:
        raise Unsupported("normalisation by the batch in several processes")


def microbatch_forms(
    risk: EmpiricalRisk, x: Any, y: Tensor | Targets, v: Sequence[Tensor | Signed]
) -> tuple[float, float, float, float]:
    """Compute vᵀGv, vᵀNv, the loss and the weight of one microbatch: sums, not means.

    Raises:
        Unsupported: the network does what Taylor mode has no rule for.
    """
    try:
        with (
            Jets(list(risk.parameters.values()), v, graph=False) as jets,
            Composed(order=3),
            torch.autograd.graph.saved_tensors_hooks(_forgotten, _wanted),
        ):
            z = risk.outputs(mapped(x, Tensor.clone))
            jet = jets.of(z)
    except InputError as error:
        if isinstance(error.__cause__, Unsupported):
            raise error.__cause__ from error
        raise
    at, exact = risk.at_outputs(z.detach(), x, y)
    gn = (jet.first * at.hessian(jet.first)).sum(dtype=torch.float64)
    nme = 0.0
    if jet.second is not None:
        nme = float((exact.cotangent.to(z.dtype) * jet.second).sum(dtype=torch.float64))
    return float(gn), nme, float(exact.total.detach()), at.weight


def _forgotten(_: Tensor) -> None:
    """Keep nothing of what a reverse pass would need."""


def _wanted(_: Any) -> Tensor:
    raise Unsupported("a gradient within the network")
