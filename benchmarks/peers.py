"""How peers answer: their products, their algorithms, and the least effort that meets a target.

Effort is found beforehand and for free, on hessdiag's products: what an algorithm needs does not
depend on whose products it is given. So peers are told in time how far to go, which their users are
not, and all have the algorithms of hessian-eigenthings, Lanczos without restarts and Hutch++, but
for PyHessian, which has its own. N v is H v − G v to them.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

Array = NDArray[Any]
Answers = dict[str, Callable[[], Any]]  # to "trace", "eigenvalues" and "density"

TOP = 5  # eigenvalues at an end
MOST = 400  # products that an algorithm may take
MODULES = {  # and distributions
    "curvlinops": "curvlinops-for-pytorch",
    "hessian_eigenthings": "hessian-eigenthings",
    "pyhessian": "pyhessian",
}


class TimeUp(Exception):
    """A peer takes longer than it is given."""


class Matvec:
    """Products with one part; what hessian-eigenthings calls an operator.

    Attributes:
        count: products so far.
        deadline: of ``time.perf_counter``, after which products raise TimeUp.
    """

    def __init__(self, size: int, device: torch.device, multiply: Callable[[Tensor], Tensor]):
        self.size, self.device, self.dtype = size, device, torch.float32
        self.multiply, self.count, self.deadline = multiply, 0, float("inf")

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply one vector ``(n,)``."""
        if time.perf_counter() > self.deadline:
            raise TimeUp
        self.count += 1
        return self.multiply(v).detach()


@dataclass(frozen=True)
class Effort:
    """The least that meets a target.

    Attributes:
        probes: of Hutchinson's estimator.
        hutchpp: products of Hutch++; None where they are no fewer.
        steps: of Lanczos from one vector, for eigenvalues.
        density: of Lanczos from one vector, for the density.
    """

    probes: int
    hutchpp: int | None
    steps: int
    density: int


def least_effort(
    at: Matvec,
    half_width: float,
    resolved: Callable[[Array, Array], bool],
    close: Callable[[Array, Array], bool],
) -> Effort:
    """Find it, for one part.

    Args:
        at: products with the part.
        half_width: of the 95 % interval of the trace that is asked for.
        resolved: tells whether Ritz values, ascending, with these residuals suffice.
        close: tells of nodes and weights whether their density is close enough.
    """
    he = importlib.import_module("hessian_eigenthings.algorithms")
    spread = float(he.hutchinson(at, num_samples=64, seed=1).samples.std())
    probes = int(np.ceil((1.96 * spread / half_width) ** 2))
    hutchpp = None
    for count in (15, 24, 36, 54, 81, 120, 180, 270, MOST):
        if count >= probes or hutchpp:
            break
        stderr = he.hutch_plus_plus(at, num_matvecs=count, seed=1).stderr
        hutchpp = count if 1.96 * stderr <= half_width else None
    start = torch.randn(at.size, generator=torch.Generator().manual_seed(1)).to(at.device)
    most = min(MOST // 2, at.size)
    run = he.lanczos_tridiagonal(at, start, most)
    alphas, betas = run.alphas.double().cpu().numpy(), run.betas.double().cpu().numpy()
    steps = density = most
    for m in range(len(betas), 2 * TOP, -1):
        values, vectors = eigh_tridiagonal(alphas[:m], betas[: m - 1])
        steps = m if resolved(values, betas[m - 1] * np.abs(vectors[-1])) else steps
        density = m if close(values, vectors[0] ** 2) else density
    return Effort(probes, hutchpp, steps, density)


def of_operators(module: str, problem: Any) -> dict[str, Matvec]:
    """Make a peer's products, by part.

    Args:
        module: curvlinops or hessian_eigenthings.
        problem: network, batches, loss, layout.
    """
    package = importlib.import_module(module)
    model, batches, loss = problem.model, problem.batches, problem.loss
    if module == "curvlinops":
        arguments = model, loss, list(model.parameters()), batches
        kinds = package.HessianLinearOperator, package.GGNLinearOperator
        options = {"check_deterministic": False, "num_data": problem.num_examples}
        hessian, gn = (partial(_on_tensors, kind(*arguments, **options), problem) for kind in kinds)
    else:
        of_model = package.supervised_loss(loss)
        of_output = package.supervised_forward, package.supervised_loss_of_output(loss)
        several = len(batches) > 1
        hessian = package.HessianOperator(model, batches, of_model, full_dataset=several).matvec
        gn = package.GGNOperator(model, batches, *of_output, full_dataset=several).matvec
    multiply = {"hessian": hessian, "gn": gn, "nme": lambda v: hessian(v) - gn(v)}
    return {part: Matvec(problem.size, problem.device, f) for part, f in multiply.items()}


def _on_tensors(operator: Any, problem: Any, v: Tensor) -> Tensor:
    return problem.layout.flatten(operator @ problem.layout.unflatten(v))


def answers(at: Matvec, part: str, effort: Effort) -> Answers:
    """Make the answers of hessian-eigenthings' algorithms on these products."""
    he = importlib.import_module("hessian_eigenthings.algorithms")
    both = part == "nme"
    trace = (
        partial(he.hutch_plus_plus, at, num_matvecs=effort.hutchpp)
        if effort.hutchpp
        else partial(he.hutchinson, at, num_samples=effort.probes)
    )
    which, k = ("LM", 2 * TOP) if both else ("LA", TOP)
    return {
        "trace": trace,
        "eigenvalues": partial(he.lanczos, at, k=k, max_iter=effort.steps, which=which),
        "density": partial(he.spectral_density, at, num_runs=1, lanczos_steps=effort.density),
    }


def of_pyhessian(problem: Any, effort: Effort, at: Matvec) -> Answers:
    """Make PyHessian's answers about H: power iteration and Hutchinson's estimator.

    Its density calls a function that torch no longer has.

    Args:
        problem: network, batches, loss.
        effort: what they need.
        at: counts its products.
    """
    package = importlib.import_module("pyhessian")
    inner, of_graph = importlib.import_module("pyhessian.hessian"), package.hessian_vector_product

    class Watched(package.hessian):
        def dataloader_hv_product(self, v: Any) -> Any:
            at.matvec(v[0])
            return super().dataloader_hv_product(v)

    def watched(*arguments: Any) -> Any:
        at.matvec(arguments[2][0])
        return of_graph(*arguments)

    def made() -> Any:
        vars(inner)["hessian_vector_product"] = watched
        several = len(problem.batches) > 1
        data = {"dataloader": problem.batches} if several else {"data": problem.batches[0]}
        return Watched(problem.model, problem.loss, **data, cuda=problem.device.type == "cuda")

    return {
        "trace": lambda: made().trace(maxIter=effort.probes, tol=0),
        "eigenvalues": lambda: made().eigenvalues(maxIter=1000, tol=1e-6, top_n=TOP),
    }
