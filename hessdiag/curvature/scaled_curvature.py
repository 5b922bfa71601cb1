"""The Hessian as others weigh it: along an optimizer's scales, and class by class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.errors import InputError
from hessdiag.linalg.driver import drive
from hessdiag.linalg.lanczos import RitzValue, gaussian_rows, lanczos
from hessdiag.linalg.trace import Estimate, Probes, estimate_mean
from hessdiag.losses.loss_spec import LossSpec


def preconditioned_lambda_max(
    decomposition: Decomposition,
    scale: Tensor,
    *,
    part: str = "hessian",
    max_passes: int = 200,
    seed: int = 0,
) -> RitzValue:
    """Find λ max of P^{-1/2} A P^{-1/2}, P = diag(scale), which decides whether Adam is stable.

    Cost: a product a Lanczos step.

    Args:
        decomposition: of network, data and loss.
        scale: P's diagonal, flat ``(n,)``, above 0: for Adam √v̂ + ε.
        part: A, "hessian", "gn" or "nme".
        max_passes: Lanczos steps.
        seed: of the start.

    Raises:
        InputError: a scale of another size, or not above 0.

    Source: Cohen et al. (2022), "Adaptive gradient methods at the edge of stability", eq. 3.
    """
    risk, size = decomposition.risk, decomposition.num_parameters
    if scale.shape != (size,) or not bool((scale > 0).all()):
        got = f"shape {tuple(scale.shape)}, from {float(scale.min()):.3g}"
        raise InputError("the scale does not fit", got=got, wanted=f"({size},), above 0")
    root = scale.to(risk.device, risk.dtype).rsqrt()
    start = gaussian_rows(1, size, seed=seed, dtype=risk.dtype, device=risk.device)
    steps = lanczos(
        start,
        top_k=1,
        depth=0,
        basis_size=min(40, size),
        tolerance=1e-3 if risk.dtype == torch.float32 else 1e-10,
        max_steps=max_passes,
        seed=seed,
    )

    def answer(requests: Any) -> Any:
        return [
            {part: root * getattr(decomposition.products(root * asked.vectors, (part,)), part)}
            for asked in requests
        ]

    return drive({"lanczos": (part, steps)}, answer).results["lanczos"].top[0]


def class_traces(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    loss: LossSpec | None = None,
    part: str = "hessian",
    num_probes: int = 32,
    seed: int = 0,
    **network: Any,
) -> dict[int, Estimate]:
    """Estimate tr A_c, the trace of the mean loss over the examples of each class c.

    All classes meet the same probes: with their shares of the examples as weights, the traces sum
    to tr A probe by probe. Not for networks that normalise by the batch.

    Cost: ``num_probes`` products over the data, in all.

    Args:
        model: from a tensor to one tensor.
        batches: (x, y) with labels ``(n,)``.
        loss: as :func:`hessdiag.spectrum` takes it.
        part: A, "hessian", "gn" or "nme".
        num_probes: Rademacher probes.
        seed: of them.
        **network: more for :class:`hessdiag.Decomposition`.

    Raises:
        InputError: targets that are no labels.
    """
    pairs = list(batches)
    if any(y.is_floating_point() or y.ndim != 1 for _, y in pairs):
        raise InputError("the targets are no labels of classes", wanted="integers (n,)")
    found: dict[int, Estimate] = {}
    for label in sorted({int(label) for _, y in pairs for label in y.unique()}):
        own = [(x[y == label], y[y == label]) for x, y in pairs if bool((y == label).any())]
        decomposition = Decomposition(model, own, loss, **network)
        risk = decomposition.risk
        size = decomposition.num_parameters
        probes = Probes(size, seed=seed, dtype=risk.dtype, device=risk.device)
        rows = probes.rows(0, num_probes)
        products = getattr(decomposition.products(rows, (part,)), part)
        forms = (rows * products).sum(1, dtype=torch.float64).cpu().numpy()
        found[label] = estimate_mean(np.asarray(forms)).bounded()
    return found
