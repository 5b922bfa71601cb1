"""A step η of SGD is gradient flow with the p = 2 penalty at ρ = η/4, to leading order in η."""

import math
from copy import deepcopy

import pytest
from torch import Tensor, nn

from hessdiag.training.methods import GradientPenalty, Plain
from tests.cases import labels, mlp, normal, seeded


def gradient(model: nn.Module, theta: Tensor, method, batch, loss: str) -> Tensor:
    moved = deepcopy(model)
    nn.utils.vector_to_parameters(theta, moved.parameters())
    method.backward(moved, batch, loss)
    return nn.utils.parameters_to_vector([p.grad for p in moved.parameters()])


def flow(slope, theta: Tensor, time: float, steps: int = 4) -> Tensor:
    """Integrate dθ/dt = −slope(θ) by the classical Runge-Kutta method."""
    h = time / steps
    for _ in range(steps):
        a = -slope(theta)
        b = -slope(theta + h / 2 * a)
        c = -slope(theta + h / 2 * b)
        d = -slope(theta + h * c)
        theta = theta + h / 6 * (a + 2 * b + 2 * c + d)
    return theta


@pytest.mark.parametrize("kind", ["quadratic", "network"])
def test_a_step_of_sgd_is_flow_with_the_penalty_at_a_quarter_of_the_step(kind: str):
    if kind == "quadratic":
        model, loss = seeded(lambda: nn.Sequential(nn.Linear(4, 3))), "mse"
        batch = normal(9, 4), normal(9, 3, seed=1)
    else:
        model, loss = seeded(lambda: mlp(nn.GELU, 4, 6, 5, 3)), "cross-entropy"
        batch = normal(9, 4), labels(9)
    theta = nn.utils.parameters_to_vector(model.parameters()).detach()
    orders = {}
    for quarter in (0.0, 1 / 4, 1 / 2):
        misses = []
        for eta in (0.04, 0.02):
            step = theta - eta * gradient(model, theta, Plain(), batch, loss)
            penalty = GradientPenalty(rho=quarter * eta, power=2)
            followed = flow(lambda at: gradient(model, at, penalty, batch, loss), theta, eta)  # noqa: B023
            misses.append(float((followed - step).norm()))
        orders[quarter] = math.log2(misses[0] / misses[1])
    assert orders[1 / 4] == pytest.approx(3, abs=0.4)
    assert orders[0.0] == pytest.approx(2, abs=0.4)
    assert orders[1 / 2] == pytest.approx(2, abs=0.4)
