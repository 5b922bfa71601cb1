"""Activations against their closed forms, and derivatives of every order in use."""

import copy
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
    ("swish", 0.5),
    ("swish", 5.0),
    ("softplus", None),
    ("softplus", 5.0),
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
    module = activations.make(name, 2.0 if activations.ACTIVATIONS[name].takes_beta else None)
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


@pytest.mark.parametrize("beta", [0.3, 1.0, 7.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_swish_has_its_closed_forms(beta: float, dtype: torch.dtype) -> None:
    x = points(dtype)
    s = torch.sigmoid(beta * x)
    value = activations.make("swish", beta)(x)
    first = derivative(value, x)
    second = derivative(first, x)
    slope = beta * s * (1 - s)  # of s
    torch.testing.assert_close(value, x * s)
    torch.testing.assert_close(first, s + x * slope)
    torch.testing.assert_close(second, slope * (2 + beta * x * (1 - 2 * s)))


def test_swish_is_silu_at_one_and_tends_to_relu() -> None:
    x = points()
    torch.testing.assert_close(activations.make("swish", 1.0)(x), nn.functional.silu(x))
    torch.testing.assert_close(activations.make("swish", 1e6)(x), x.relu())


def test_softplus_and_augmented_relu_have_a_beta_of_one_unless_told() -> None:
    x = points()
    softplus = activations.make("softplus")
    torch.testing.assert_close(softplus(x), nn.functional.softplus(x))
    assert softplus.beta == activations.make("augmented_relu").beta == 1.0
    sharp = activations.make("softplus", 4)(x)
    torch.testing.assert_close(sharp, nn.functional.softplus(x, beta=4))
    bends = [
        derivative(derivative(activations.make("augmented_relu", beta)(x), x), x)
        for beta in (None, 1.0, 4.0)
    ]
    assert torch.equal(bends[0], bends[1])
    assert not torch.equal(bends[0], bends[2])


@pytest.mark.parametrize(
    ("name", "beta", "settled"),
    [
        ("beta_gelu", 3, 3.0),
        ("swish", 0.5, 0.5),
        ("softplus", None, 1.0),
        ("softplus", 2, 2.0),
        ("augmented_relu", None, 1.0),
        ("augmented_relu", 7, 7.0),
        ("gelu", None, None),
        ("diminished_gelu", None, None),
    ],
)
def test_beta_is_settled(name: str, beta: float | None, settled: float | None) -> None:
    found = activations.settle_beta(name, beta)
    assert found == settled
    assert type(found) is type(settled)


@pytest.mark.parametrize("name", activations.NAMES)
def test_make_and_curve_agree_on_who_takes_a_beta(name: str) -> None:
    entry = activations.ACTIVATIONS[name]
    for function in (activations.make, activations.curve):
        if entry.takes_beta:
            function(name, 2.0)
        else:
            with pytest.raises(InputError, match="takes no β"):
                function(name, 2.0)
        if entry.takes_beta and entry.default_beta is None:
            with pytest.raises(InputError, match="needs a β"):
                function(name)
        else:
            function(name)


def test_a_module_of_ours_says_name_and_beta() -> None:
    assert "swish, beta=2.5" in repr(activations.make("swish", 2.5))
    assert "squared_relu" in repr(activations.make("squared_relu"))


@pytest.mark.parametrize("name", ["squared_relu", "swish", "augmented_relu", "diminished_gelu"])
def test_modules_of_ours_can_be_copied(name: str) -> None:
    module = activations.make(name, 2.0 if activations.ACTIVATIONS[name].takes_beta else None)
    assert torch.equal(copy.deepcopy(module)(points()), module(points()))


@pytest.mark.gpu
def test_beta_gelu_agrees_on_the_gpu(accelerator: torch.device) -> None:
    module = activations.make("beta_gelu", 3.0)
    x = points().detach().to(accelerator).requires_grad_()
    torch.testing.assert_close(module(x).cpu(), module(points()))
    assert gradgradcheck(module, x)


def test_an_unknown_name_is_met_with_the_nearest() -> None:
    with pytest.raises(InputError, match="gelu"):
        activations.make("gellu")


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["beta_gelu", "swish", "softplus", "augmented_relu"])
def test_beta_out_of_range_is_refused(name: str, beta: float) -> None:
    with pytest.raises(InputError, match="out of range"):
        activations.make(name, beta)


def test_beta_is_needed_where_taken_and_refused_elsewhere() -> None:
    for name in ("beta_gelu", "swish"):
        with pytest.raises(InputError, match="needs a β"):
            activations.make(name)
    with pytest.raises(InputError, match="beta_gelu or swish or softplus or augmented_relu"):
        activations.make("relu", 1.0)
