"""Activations with a chosen second derivative: in every mode, and inside a network."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck
from torch.func import grad, jvp, vmap
from torch.nn import functional as F

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.errors import InputError
from hessdiag.nets import activations, surrogates
from hessdiag.nets.curves import Curve
from tests.cases import labels, mlp, normal, seeded, split
from tests.oracles import hessian_vector, relative_error

# torch's own, the first time that it differentiates forward
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own

BETAS = (0.5, 1.0, 7.0, 50.0)
KINDS = [("augmented_relu", beta) for beta in BETAS] + [("diminished_gelu", None)]
Scalar = Callable[[Tensor], Tensor]

each_kind = pytest.mark.parametrize(("name", "beta"), KINDS)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def points(dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.cat([torch.linspace(-3, 3, 61, dtype=torch.float64), normal(40, seed=3)])
    return torch.cat([x, torch.tensor([0.0, -0.0, 1e-40, -1e-40, 30.0, -30.0])]).to(dtype)


def true_first(name: str, x: Tensor) -> Tensor:
    if name == "augmented_relu":
        return (x > 0).to(x)
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.gelu(x).sum(), x)[0]


def true_second(name: str, beta: float | None, x: Tensor) -> Tensor:
    if name == "diminished_gelu":
        return torch.zeros_like(x)
    assert beta is not None
    z = beta * x.double()
    return (beta / math.sqrt(2 * math.pi) * torch.exp(-0.5 * z * z)).to(x)


def double_backward(f: Scalar, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    first = torch.autograd.grad(f(x).sum(), x, create_graph=True)[0]
    return torch.autograd.grad(first.sum(), x)[0]


def grad_of_grad(f: Scalar, x: Tensor) -> Tensor:
    return vmap(grad(grad(f)))(x)


def forward_over_reverse(f: Scalar, x: Tensor) -> Tensor:
    return jvp(lambda x: grad(lambda x: f(x).sum())(x), (x,), (torch.ones_like(x),))[1]


def reverse_over_forward(f: Scalar, x: Tensor) -> Tensor:
    return grad(lambda x: jvp(f, (x,), (torch.ones_like(x),))[1].sum())(x)


def dual_over_backward(f: Scalar, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.clone().requires_grad_(), torch.ones_like(x))
        first = torch.autograd.grad(f(dual).sum(), dual, create_graph=True)[0]
        return forward_ad.unpack_dual(first).tangent.detach()


def backward_over_dual(f: Scalar, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    # outside the level, as in it the backward pass would be differentiated forward once more
    return torch.autograd.grad(tangent.sum(), x)[0]


MODES = [
    double_backward,
    grad_of_grad,
    forward_over_reverse,
    reverse_over_forward,
    dual_over_backward,
    backward_over_dual,
]
each_mode = pytest.mark.parametrize("mode", MODES)


@each_kind
@each_dtype
def test_the_value_is_bit_for_bit_the_true_one(name: str, beta: float | None, dtype: torch.dtype):
    x = points(dtype).reshape(1, -1, 1)
    y = activations.make(name, beta)(x)
    assert torch.equal(y, F.relu(x) if name == "augmented_relu" else F.gelu(x))
    assert (y.dtype, y.shape) == (dtype, x.shape)


@each_kind
@each_dtype
def test_the_first_derivative_is_the_true_one(name: str, beta: float | None, dtype: torch.dtype):
    x, module = points(dtype), activations.make(name, beta)
    wanted = true_first(name, x)
    leaf = x.clone().requires_grad_()
    reverse = torch.autograd.grad(module(leaf).sum(), leaf)[0]
    forward = jvp(module, (x,), (torch.ones_like(x),))[1]
    each = vmap(grad(module))(x)
    for got in (reverse, forward, each):
        if name == "augmented_relu":
            assert torch.equal(got, wanted)
        else:
            torch.testing.assert_close(got, wanted)


@each_mode
@each_kind
@each_dtype
def test_the_second_derivative_is_the_chosen_one(
    name: str, beta: float | None, mode: Callable[[Scalar, Tensor], Tensor], dtype: torch.dtype
):
    x = points(dtype)
    got = mode(activations.make(name, beta), x)
    wanted = true_second(name, beta, x)
    if name == "diminished_gelu":
        assert torch.equal(got, wanted)
    else:
        # the exponent's rounding grows with its size
        rtol = 1e-12 if dtype == torch.float64 else 1e-4
        torch.testing.assert_close(got, wanted, rtol=rtol, atol=1e-30)


@each_kind
def test_derivatives_go_through_what_is_around_them(name: str, beta: float | None):
    x, module = normal(20, seed=5), activations.make(name, beta)

    def whole(x: Tensor) -> Tensor:
        return module(x.square() - 1).square()

    u = x.square() - 1
    value = F.relu(u) if name == "augmented_relu" else F.gelu(u)
    first, second = true_first(name, u), true_second(name, beta, u)
    # (φ(u)²)'' with u' = 2x and u'' = 2
    wanted = 2 * (first * 2 * x).square() + 2 * value * (second * (2 * x).square() + first * 2)
    for mode in MODES:
        torch.testing.assert_close(mode(whole, x), wanted)


def test_the_first_order_passes_gradcheck_where_value_is_smooth():
    x = normal(10, seed=6)
    away = (x + 0.1 * x.sign()).requires_grad_()
    for name, beta in (("augmented_relu", 3.0), ("diminished_gelu", None)):
        module = activations.make(name, beta)
        assert gradcheck(module, away, check_forward_ad=True, check_batched_grad=True)


def test_an_honest_surrogate_is_the_function_itself():
    curve = Curve(torch.sin, torch.cos, lambda x: -torch.sin(x))
    x = normal(10, seed=7)
    for mode in MODES:
        got = mode(lambda x: surrogates.surrogate(x, curve), x)
        torch.testing.assert_close(got, -torch.sin(x))


@each_kind
def test_a_third_derivative_is_refused(name: str, beta: float | None):
    module, x = activations.make(name, beta), normal(4).requires_grad_()
    y = module(x).sum()
    for _ in range(2):
        y = torch.autograd.grad(y, x, create_graph=True)[0].sum()
    with pytest.raises(InputError, match="no third one"):
        torch.autograd.grad(y, x)
    with pytest.raises(InputError, match="no third one"):
        grad(grad(grad(module)))(torch.tensor(0.3))


def formula(
    curve: Curve, model: nn.Sequential, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Write out G, N and its W block for z = U φ(W x + b) + d, cross-entropy, example by example.

    Parameters in the order W, b, U, d; with x' = (x, 1), N has Σ_k c_k U_kj φ''(a_j) x'_p x'_q
    between the weights into unit j, and c_k φ'(a_j) x'_p between U_kj and those.
    """
    w, b, u, d = (p.detach() for p in model.parameters())
    (width, fan_in), num_classes = w.shape, len(u)
    size = sum(p.numel() for p in model.parameters())
    gn, nme = (torch.zeros(size, size, dtype=torch.float64) for _ in range(2))
    into = [
        torch.tensor([*range(j * fan_in, (j + 1) * fan_in), width * fan_in + j])
        for j in range(width)
    ]
    start = width * fan_in + width
    for x_n, y_n in zip(x, y, strict=True):
        a = w @ x_n + b
        h, slope, bend = curve.value(a), curve.first(a), curve.second(a)
        p = (u @ h + d).softmax(0)
        c = p - F.one_hot(y_n, num_classes)
        input_and_one = torch.cat([x_n, torch.ones(1, dtype=torch.float64)])
        jacobian = torch.zeros(num_classes, size, dtype=torch.float64)
        for j, at in enumerate(into):
            nme[at[:, None], at] += (c @ u[:, j]) * bend[j] * torch.outer(*2 * [input_and_one])
            jacobian[:, at] = torch.outer(u[:, j] * slope[j], input_and_one)
            for k in range(num_classes):
                kj = start + k * width + j
                nme[kj, at] += c[k] * slope[j] * input_and_one
                nme[at, kj] += c[k] * slope[j] * input_and_one
                jacobian[k, kj] = h[j]
        for k in range(num_classes):
            jacobian[k, start + u.numel() + k] = 1
        gn += jacobian.T @ (p.diag() - torch.outer(p, p)) @ jacobian
    return gn / len(x), nme / len(x), nme[: w.numel(), : w.numel()] / len(x)


@each_kind
def test_the_parts_of_a_perceptron_are_those_written_out(name: str, beta: float | None):
    model = seeded(lambda: mlp(lambda: activations.make(name, beta), 4, 6, 3))
    x, y = normal(9, 4), labels(9)
    batches = split(x, y, 5, 1, 3)
    gn, nme, _ = formula(activations.curve(name, beta), model, x, y)
    decomposition = Decomposition(model, batches)
    v = normal(4, len(gn), seed=8)
    found = decomposition.products(v)
    assert relative_error(found.gn, v @ gn) < 1e-12
    assert relative_error(found.nme, v @ nme) < 1e-12
    assert relative_error(found.hessian, v @ (gn + nme)) < 1e-12
    by_torch = torch.stack([hessian_vector(model, batches, "cross-entropy", row) for row in v])
    assert relative_error(found.hessian, by_torch) < 1e-12
    assert decomposition.residual() < 1e-12


def test_diminished_gelu_leaves_the_nme_between_layers_only():
    model = seeded(lambda: mlp(lambda: activations.make("diminished_gelu"), 4, 6, 3))
    batches = split(normal(9, 4), labels(9), 9)
    _, _, within = formula(activations.curve("diminished_gelu"), model, *batches[0])
    assert not within.any()
    nme = Decomposition(model, batches).operator("nme").dense()
    assert not nme[:30, :30].any()  # W and b
    assert nme[30:, :30].norm() > 0.1


def test_augmented_relu_differs_from_relu_in_the_nme_alone():
    batches = split(normal(9, 4), labels(9), 9)
    relu, augmented = (
        Decomposition(
            seeded(lambda name=name: mlp(lambda: activations.make(name), 4, 6, 3)), batches
        )
        for name in ("relu", "augmented_relu")
    )
    v = normal(relu.num_parameters, seed=9)
    first, second = relu.products(v), augmented.products(v)
    assert torch.equal(relu.gradient().vector, augmented.gradient().vector)
    assert relative_error(second.gn, first.gn) < 1e-14
    assert relative_error(second.nme, first.nme) > 0.1
