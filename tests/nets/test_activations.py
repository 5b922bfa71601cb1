"""Activations against their closed forms, and derivatives of every order in use."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from hessdiag.errors import InputError
from hessdiag.nets import activations

SMOOTH = [
    ("gelu", None),
    ("gelu_tanh", None),
    ("beta_gelu", 0.5),
    ("beta_gelu", 5.0),
    ("silu", None),
    ("softplus", None),
    ("tanh", None),
    ("sigmoid", None),
    ("mish", None),
]


def points(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(-2.3, 2.4, 12, dtype=dtype).requires_grad_()


def derivative(y: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(y.sum(), x, create_graph=True)[0]


@pytest.mark.parametrize("name", activations.NAMES)
def test_every_name_makes_a_module_that_leaves_its_input_alone(name: str) -> None:
    module = activations.make(name, 2.0 if name == "beta_gelu" else None)
    x = torch.linspace(-1, 1, 5)
    y = module(x)
    assert isinstance(module, nn.Module)
    assert not list(module.parameters())
    assert y.shape == x.shape
    assert torch.equal(x, torch.linspace(-1, 1, 5))


@pytest.mark.parametrize(("name", "beta"), SMOOTH)
def test_smooth_activations_have_three_derivatives(name: str, beta: float | None) -> None:
    module = activations.make(name, beta)

    def slope(x: Tensor) -> Tensor:
        return derivative(module(x), x)

    assert gradcheck(module, points())
    assert gradgradcheck(module, points())
    assert gradgradcheck(slope, points())


@pytest.mark.parametrize("beta", [0.3, 1.0, 7.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_beta_gelu_has_its_closed_forms(beta: float, dtype: torch.dtype) -> None:
    x = points(dtype)
    z = beta * x
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    distribution = torch.special.ndtr(z)
    value = activations.make("beta_gelu", beta)(x)
    first = derivative(value, x)
    second = derivative(first, x)
    third = derivative(second, x)
    torch.testing.assert_close(value, x * distribution)
    torch.testing.assert_close(first, distribution + z * density)
    torch.testing.assert_close(second, beta * density * (2 - z.square()))
    torch.testing.assert_close(third, beta**2 * density * z * (z.square() - 4))


def test_beta_gelu_tends_to_relu_and_is_gelu_at_one() -> None:
    x = points()
    torch.testing.assert_close(activations.make("beta_gelu", 1.0)(x), nn.functional.gelu(x))
    torch.testing.assert_close(activations.make("beta_gelu", 1e6)(x), x.relu())


def test_beta_gelu_stays_finite_far_out() -> None:
    x = torch.tensor([-1e20, -50.0, 0.0, 50.0, 1e20], requires_grad=True)
    y = activations.make("beta_gelu", 100.0)(x)
    assert torch.equal(y, x.relu())
    assert torch.equal(derivative(y, x), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))


@pytest.mark.gpu
def test_beta_gelu_agrees_on_the_gpu() -> None:
    module = activations.make("beta_gelu", 3.0)
    x = points().detach().cuda().requires_grad_()
    torch.testing.assert_close(module(x).cpu(), module(points()))
    assert gradgradcheck(module, x)


def test_an_unknown_name_is_met_with_the_nearest() -> None:
    with pytest.raises(InputError, match="gelu"):
        activations.make("gellu")


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_beta_out_of_range_is_refused(beta: float) -> None:
    with pytest.raises(InputError, match="out of range"):
        activations.make("beta_gelu", beta)


def test_beta_is_needed_where_taken_and_refused_elsewhere() -> None:
    with pytest.raises(InputError, match="needs a β"):
        activations.make("beta_gelu")
    with pytest.raises(InputError, match="takes no β"):
        activations.make("relu", 1.0)
