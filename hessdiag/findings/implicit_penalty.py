"""Appendix B.4 in numbers: paths of SGD beside gradient flow with the penalty ρ‖∇L‖²."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hessdiag.training.methods import Method

SHARES = (0.0, 0.25, 0.5)  # of the step η: ρ
KINDS = ("quadratic", "network")
_TIME = 0.64
_ETA = {"quadratic": 0.08, "network": 0.04}
_PARTS = 2  # of a step: those of the classical Runge-Kutta method


def orders(seed: int) -> Mapping[str, Mapping[str, float]]:
    """Follow steps η of gradient descent, and of η/2, over one time, and the flow for each ρ.

    A step multiplies an eigendirection of curvature h by ``1 − ηh``, the flow by
    ``exp(−η(h + 2ρh²))``: the paths part by O(η²) in a fixed time at ρ = η/4, else by O(η).

    Args:
        seed: of weights and examples. The quadratic is the mean squared error of a linear network;
            the network a GELU perceptron on 64 of the digits, with cross-entropy.

    Returns:
        By choice, ``KIND SHARE``: "order", p of the distance ηᵖ between the ends of both paths, and
        "miss", the distance at η over the length of the way; "one", 1.
    """
    from torch.nn.utils import parameters_to_vector

    found: dict[str, Mapping[str, float]] = {}
    for kind in KINDS:
        model, loss, batch = _problem(kind, seed)
        start = parameters_to_vector(model.parameters()).detach()
        for share in SHARES:
            misses = [_miss(model, start, loss, batch, _ETA[kind] / half, share) for half in (1, 2)]
            order = math.log2(misses[0] / misses[1])
            found[f"{kind} {share:g}"] = {"order": order, "miss": misses[0], "one": 1.0}
    return found


def _problem(kind: str, seed: int) -> tuple[nn.Module, str, tuple[Tensor, Tensor]]:
    import torch

    from hessdiag.data import datasets
    from hessdiag.metadata import ModelSpec
    from hessdiag.nets import models

    if kind == "network":
        data = datasets.load("digits", num_samples=64, seed=seed)
        shape = (1, 8, 8)
        model = models.build(ModelSpec("mlp-16-16", "gelu", None, 10, shape), seed=seed)
        return model.double(), "cross-entropy", (data.inputs.double(), data.targets)
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(32, size, generator=generator).double() for size in (8, 3))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return torch.nn.Linear(8, 3).double(), "mse", (x, y)


def _miss(
    model: nn.Module,
    start: Tensor,
    loss: str,
    batch: tuple[Tensor, Tensor],
    eta: float,
    share: float,
) -> float:
    from hessdiag.training.methods import GradientPenalty, Plain

    plain, penalty = Plain(), GradientPenalty(rho=share * eta, power=2)
    stepped = flowed = start
    for _ in range(round(_TIME / eta)):
        stepped = stepped - eta * _gradient(model, plain, loss, batch, stepped)
        flowed = _flow(lambda at: _gradient(model, penalty, loss, batch, at), flowed, eta)
    return float((stepped - flowed).norm() / (stepped - start).norm())


def _gradient(
    model: nn.Module, method: Method, loss: str, batch: tuple[Tensor, Tensor], theta: Tensor
) -> Tensor:
    from torch.nn.utils import parameters_to_vector, vector_to_parameters

    vector_to_parameters(theta, model.parameters())
    model.zero_grad()
    method.backward(model, batch, loss)
    return parameters_to_vector([p.grad for p in model.parameters() if p.grad is not None])


def _flow(slope: Callable[[Tensor], Tensor], theta: Tensor, time: float) -> Tensor:
    """Integrate dθ/dt = −slope(θ)."""
    h = time / _PARTS
    for _ in range(_PARTS):
        a = -slope(theta)
        b = -slope(theta + h / 2 * a)
        c = -slope(theta + h / 2 * b)
        d = -slope(theta + h * c)
        theta = theta + h / 6 * (a + 2 * b + 2 * c + d)
    return theta
