"""Sharpness as others measure it, against closed forms on a quadratic risk."""

import pytest
import torch
from torch import nn

from hessdiag import Decomposition, InputError
from hessdiag.curvature.sharpness import critical_sharpness, sharpness
from tests.cases import normal, seeded
from tests.oracles import linear_mse


def quadratic() -> tuple[Decomposition, object]:
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 3, bias=False)))
    x, y = normal(9, 4), normal(9, 3, seed=1)
    return Decomposition(model, [(x, y)], "mse"), linear_mse(model[0].weight.detach(), x, y)


def test_on_a_quadratic_all_three_have_closed_forms():
    decomposition, truth = quadratic()
    g, h, rho = truth.gradient, truth.hessian, 0.3
    theta = decomposition.risk.layout.flatten([*decomposition.risk.parameters.values()]).detach()
    found = sharpness(decomposition, rho=rho, adaptive_rho=rho)
    unit = g / g.norm()
    assert found.sam == pytest.approx(float(rho * g.norm() + rho**2 / 2 * unit @ h @ unit))
    t = theta.abs() + 0.01
    step = rho * t**2 * g / (t * g).norm()
    assert found.adaptive == pytest.approx(float(g @ step + step @ h @ step / 2))
    assert found.critical == pytest.approx(float(unit @ h @ unit), rel=1e-5)
    half = 0.5 * torch.arange(1, len(g) + 1).double() * g  # a preconditioned update
    wanted = float(half @ h @ half / (g @ half))
    assert critical_sharpness(decomposition.risk, half) == pytest.approx(wanted, rel=1e-5)


def test_a_radius_is_above_0_and_a_descent_without_end_has_no_critical_step():
    decomposition, _ = quadratic()
    with pytest.raises(InputError, match="rho"):
        sharpness(decomposition, rho=0)
    risk = decomposition.risk
    assert critical_sharpness(risk, torch.zeros(12)) is None
