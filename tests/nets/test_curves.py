"""Closed forms of φ, φ' and φ'' against autograd, finite differences, integrals and facts."""

import math
from itertools import pairwise

import pytest
import torch
from scipy import integrate, optimize
from torch import Tensor

from hessdiag.nets import activations, curves
from hessdiag.nets.curves import Curve, Elementwise

BETAS = (0.5, 1.0, 7.0, 50.0)
PAIRS = [
    (name, beta)
    for name, entry in activations.ACTIVATIONS.items()
    for beta in (BETAS if entry.takes_beta else (None,))
]
# their φ'' is chosen, so it is not the derivative of their φ'
SURROGATES = ("augmented_relu", "diminished_gelu")
# torch's own φ'' of mish is NaN where eˣ overflows
OVERFLOWS = {"mish": 700.0}

each_pair = pytest.mark.parametrize(("name", "beta"), PAIRS)
each_beta = pytest.mark.parametrize("beta", BETAS)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def by_autograd(name: str, beta: float | None, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = activations.make(name, beta)(x)
    first = torch.autograd.grad(value.sum(), x, create_graph=True)[0]
    second = torch.zeros_like(x)
    if first.requires_grad:
        second = torch.autograd.grad(first.sum(), x, materialize_grads=True)[0]
    return value.detach(), first.detach(), second


def assert_agrees(curve: Curve, name: str, beta: float | None, x: Tensor, tolerance: float):
    """Compare value, first and second, each on its own scale: width, 1 and 1/width."""
    ours = (curve.value(x), curve.first(x), curve.second(x))
    scales = (curve.width, 1.0, 1 / curve.width)
    for got, wanted, scale in zip(ours, by_autograd(name, beta, x), scales, strict=True):
        error = (got - wanted).abs() / (scale + wanted.abs())
        worst = int(error.nan_to_num(math.inf).argmax())
        assert error[worst] < tolerance, f"at x = {x[worst]}: {got[worst]}, not {wanted[worst]}"


def smooth_points(curve: Curve, margin: float) -> Tensor:
    x = curve.width * torch.linspace(-12, 24, 1201, dtype=torch.float64)
    far = [(x - kink).abs() > margin * curve.width for kink in curve.kinks]
    return x[torch.stack(far).all(0)] if far else x


def slope_of(function: Elementwise, x: Tensor, step: float) -> Tensor:
    """Central differences of fourth order."""
    near, wide = (function(x + h) - function(x - h) for h in (step, 2 * step))
    return (8 * near - wide) / (12 * step)


def integral(curve: Curve) -> float:
    def density(x: float) -> float:
        return float(curve.second(double(x)))

    ends = [curve.width * end for end in (-60, -20, -5, 0, 5, 20, 60)]
    return sum(integrate.quad(density, a, b, epsabs=1e-12)[0] for a, b in pairwise(ends))


@each_pair
def test_a_curve_is_what_autograd_computes(name: str, beta: float | None):
    curve = activations.curve(name, beta)
    x = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    tails = double(*(sign * x for sign in (-1, 1) for x in (45, 80, 200, 690, 1e3, 1e6, 1e20)))
    tails = tails[tails < OVERFLOWS.get(name, math.inf)]
    assert_agrees(curve, name, beta, curve.width * torch.cat([x, tails]), 1e-13)


@each_pair
def test_float32_is_autograds_to_single_precision(name: str, beta: float | None):
    curve = activations.curve(name, beta)
    x = (curve.width * torch.linspace(-30, 30, 6001)).float()
    assert_agrees(curve, name, beta, x, 1e-5)


@pytest.mark.parametrize(
    ("name", "beta"),
    [pair for pair in PAIRS if activations.curve(*pair).kinks],
)
def test_at_a_kink_and_next_to_it_the_side_is_autograds(name: str, beta: float | None):
    curve = activations.curve(name, beta)
    for kink in curve.kinks:
        at, up, down = double(kink), double(math.inf), double(-math.inf)
        x = torch.cat(
            [at, at.nextafter(up), at.nextafter(down)]
            + [at + gap for gap in (-1e-3, -1e-9, -1e-14, -1e-300, 1e-300, 1e-14, 1e-9, 1e-3)]
        )
        assert_agrees(curve, name, beta, x, 1e-13)


@each_pair
def test_first_is_the_slope_of_value(name: str, beta: float | None):
    curve = activations.curve(name, beta)
    step = 1e-3 * curve.width
    x = smooth_points(curve, 3e-3)
    error = (slope_of(curve.value, x, step) - curve.first(x)).abs()
    assert error.max() < 1e-8


@pytest.mark.parametrize(("name", "beta"), [pair for pair in PAIRS if pair[0] not in SURROGATES])
def test_second_is_the_slope_of_first(name: str, beta: float | None):
    curve = activations.curve(name, beta)
    step = 1e-3 * curve.width
    x = smooth_points(curve, 3e-3)
    error = (slope_of(curve.first, x, step) - curve.second(x)).abs()
    assert error.max() < 1e-8 / curve.width


@pytest.mark.parametrize("name", SURROGATES)
def test_a_surrogates_second_is_not_the_slope_of_its_first(name: str):
    curve = activations.curve(name)
    x = smooth_points(curve, 3e-3)
    assert (slope_of(curve.first, x, 1e-3) - curve.second(x)).abs().max() > 0.3


@pytest.mark.parametrize(
    ("name", "beta"),
    [(name, beta) for name in ("beta_gelu", "augmented_relu", "swish") for beta in BETAS]
    + [(name, None) for name in ("gelu", "gelu_tanh", "silu", "mish")],
)
def test_the_integral_of_second_is_one(name: str, beta: float | None):
    assert integral(activations.curve(name, beta)) == pytest.approx(1, abs=1e-9)


@each_beta
def test_softplus_lacks_what_lies_beyond_twenty(beta: float):
    wanted = torch.sigmoid(double(20.0)).item()
    assert integral(activations.curve("softplus", beta)) == pytest.approx(wanted, abs=1e-10)


@each_beta
def test_the_facts_of_beta_gelu(beta: float):
    second = activations.curve("beta_gelu", beta).second
    zero, low = math.sqrt(2) / beta, 2 / beta
    assert second(double(0.0)).item() == pytest.approx(2 * beta / math.sqrt(2 * math.pi))
    assert second(double(-zero, zero)).abs().max() < 1e-14 * beta
    assert (second(double(-zero, zero) * 0.999) > 0).all()
    assert (second(double(-zero, zero) * 1.001) < 0).all()
    found = optimize.minimize_scalar(
        lambda x: second(double(x)).item(), bounds=(zero, 5 / beta), options={"xatol": 1e-10}
    )
    assert found.x == pytest.approx(low, rel=1e-6)
    assert found.fun == pytest.approx(-2 * beta * math.exp(-2) / math.sqrt(2 * math.pi))
    assert found.fun == pytest.approx(-0.108 * beta, rel=1e-3)
    assert second(double(-low)).item() == pytest.approx(found.fun)


@each_beta
def test_augmented_relu_bends_as_a_gaussian(beta: float):
    curve = activations.curve("augmented_relu", beta)
    x = torch.linspace(-8, 8, 101, dtype=torch.float64) / beta
    wanted = beta / math.sqrt(2 * math.pi) * torch.exp(-(beta**2) * x.square() / 2)
    torch.testing.assert_close(curve.second(x), wanted, rtol=1e-13, atol=0)
    assert torch.equal(curve.value(x), x.relu())
    assert torch.equal(curve.first(x), (x > 0).double())


@each_beta
def test_beta_gelu_and_swish_are_x_times_a_distribution_function(beta: float):
    x = torch.linspace(-9, 9, 401, dtype=torch.float64) / beta
    gelu, swish = (activations.curve(name, beta).value(x) for name in ("beta_gelu", "swish"))
    torch.testing.assert_close(gelu, x * torch.special.ndtr(beta * x), rtol=1e-13, atol=0)
    torch.testing.assert_close(swish, x * torch.sigmoid(beta * x), rtol=1e-13, atol=0)


@each_beta
@pytest.mark.parametrize("base", [curves.GELU, curves.SOFTPLUS, curves.elu(), curves.RELU])
def test_sharpening_squeezes_the_curve(base: Curve, beta: float):
    sharp = base.sharpened(beta)
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    torch.testing.assert_close(sharp.value(x / beta) * beta, base.value(x))
    torch.testing.assert_close(sharp.first(x / beta), base.first(x))
    torch.testing.assert_close(sharp.second(x / beta) / beta, base.second(x))
    assert sharp.width == base.width / beta
    assert sharp.kinks == tuple(kink / beta for kink in base.kinks)


def test_sharpening_composes_and_undoes_itself():
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    for pick in ("value", "first", "second"):
        twice = getattr(curves.GELU.sharpened(3.0).sharpened(5.0), pick)(x)
        torch.testing.assert_close(twice, getattr(curves.GELU.sharpened(15.0), pick)(x))
        back = getattr(curves.GELU.sharpened(4.0).sharpened(0.25), pick)(x)
        assert torch.equal(back, getattr(curves.GELU, pick)(x))


@pytest.mark.parametrize("name", activations.NAMES)
def test_a_kink_is_where_a_derivative_jumps(name: str):
    entry = activations.ACTIVATIONS[name]
    curve = activations.curve(name, 1.0 if entry.takes_beta else None)
    for kink in curve.kinks:
        left, right = double(kink - 1e-12), double(kink + 1e-12)
        jumps = [(f(right) - f(left)).abs().item() for f in (curve.first, curve.second)]
        assert max(jumps) > 1e-9


@each_pair
@each_dtype
def test_dtype_and_shape_are_kept_and_the_input_too(
    name: str, beta: float | None, dtype: torch.dtype
):
    curve = activations.curve(name, beta)
    for shape in ((), (0,), (3,), (2, 1, 4)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        before = x.clone()
        for function in (curve.value, curve.first, curve.second):
            y = function(x)
            assert (y.dtype, y.shape) == (dtype, x.shape)
            assert torch.isfinite(y).all()
        assert torch.equal(x, before)


@each_dtype
@each_pair
def test_far_out_nothing_overflows(name: str, beta: float | None, dtype: torch.dtype):
    curve = activations.curve(name, beta)
    x = torch.tensor([-1e8, -1e6, -1e4, -100, 100, 1e4, 1e6, 1e8], dtype=dtype)
    assert torch.isfinite(curve.value(x)).all()
    assert torch.isfinite(curve.first(x)).all()
    assert torch.isfinite(curve.second(x)).all()
