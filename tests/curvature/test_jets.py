"""Second-order Taylor mode against autograd in t, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from hessdiag.curvature.composition import Composed
from hessdiag.curvature.jet_rules import Jet
from hessdiag.curvature.jets import Jets
from hessdiag.curvature.kernels import exact_kernels
from hessdiag.losses.loss_spec import resolve
from hessdiag.losses.output_loss import summed_loss
from hessdiag.nets import activations
from tests.cases import BY_NAME, CASES, VECTORS, generator, mlp, normal, seeded
from tests.oracles import trainable

TOLERANCE = 1e-10


def directions(parameters: list[Tensor], seed: int = 7) -> list[Tensor]:
    draws = generator(seed)
    return [torch.randn(p.shape, generator=draws, dtype=p.dtype) for p in parameters]


def in_time(function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Compute y, ẏ and ÿ of a function of t at 0, entry by entry in two reverse passes."""
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    with exact_kernels():  # whose attention has a second derivative
        y = function(t)
    first, second = torch.zeros_like(y).flatten(), torch.zeros_like(y).flatten()
    for i, entry in enumerate(y.flatten()):
        (slope,) = torch.autograd.grad(
            entry, t, create_graph=True, retain_graph=True, materialize_grads=True
        )
        first[i] = slope.detach()
        if slope.requires_grad:
            (second[i],) = torch.autograd.grad(slope, t, materialize_grads=True, retain_graph=True)
    return y.detach(), first.view_as(y).detach(), second.view_as(y).detach()


def network_in_time(model: nn.Module, v: list[Tensor], x: Tensor) -> tuple[Tensor, ...]:
    parameters = trainable(model)

    def at(t: Tensor) -> Tensor:
        moved = {n: p.detach() + t * d for (n, p), d in zip(parameters.items(), v, strict=True)}
        return functional_call(model, moved, (x,))

    return in_time(at)


def jet_of(model: nn.Module, v: list[Tensor], *x: Any) -> Jet:
    with Jets(list(trainable(model).values()), v) as jets, Composed(order=3):
        return jets.of(model(*x))


def assert_jet(jet: Jet, wanted: tuple[Tensor, ...]) -> None:
    for got, truth in zip((jet.value, jet.first, jet.second), wanted, strict=True):
        if got is None:
            assert not truth.any()
        else:
            assert got.shape == truth.shape
            assert (got - truth).norm() <= TOLERANCE * truth.norm()


# rule by rule

OTHER, IMAGE, INDEX = normal(2, 4, 4, 4, seed=3), normal(2, 4, 4, 4, seed=4), torch.tensor([1, 0])
WEIGHT = normal(3, 4, 3, 3, seed=5)
SEEN = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
ROW = torch.linspace(-1.5, 2.0, 4, dtype=torch.float64)


def no_grad_scale(x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = x.std()
    return x * x / scale


def added_in_place(x: Tensor, y: Tensor) -> Tensor:
    z = x * y
    z += y
    z -= 2 * x
    z *= y
    z /= 3
    return z


def added_to_constant(x: Tensor, y: Tensor) -> Tensor:
    z = torch.ones_like(x)
    z.add_(x)
    z.mul_(y)
    return torch.full_like(z, 2.0).mul_(z)


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "add": lambda x, y: x + y,
    "add a number": lambda x, _: 2 + x,
    "add and broadcast": lambda x, _: x[0, 0, 0] + OTHER,
    "subtract": lambda x, y: x - y,
    "subtract from a number": lambda x, _: 1 - x,
    "subtract a constant": lambda x, _: x - OTHER,
    "multiply": lambda x, y: x * y,
    "multiply itself": lambda x, _: x * x,
    "multiply by a number": lambda x, _: 3 * x,
    "multiply and broadcast": lambda x, y: x * y[:, :, :1, :1],
    "divide by a number": lambda x, _: x / 3,
    "divide by a constant": lambda x, _: x / OTHER,
    "divide": lambda x, y: x / (2 + y * y),
    "negate": lambda x, _: -x,
    "square": lambda x, _: x.square(),
    "power": lambda x, _: x**2 + torch.pow(x, 3.0),
    "rsqrt": lambda x, _: (1 + x * x).rsqrt(),
    "cat": lambda x, y: torch.cat([x, y, OTHER], 1),
    "stack": lambda x, _: torch.stack((OTHER, x)),
    "matmul": lambda x, y: x @ y,
    "matmul with a constant": lambda _, y: OTHER @ y,
    "mm and transpose": lambda x, y: torch.mm(x[0, 0], y[0, 0].T),
    "bmm": lambda x, y: torch.bmm(x[0], y[0].mT),
    "linear": lambda x, y: F.linear(x, y[0, 0], y[0, 1, 0]),
    "linear without bias": lambda x, y: F.linear(x, y[0, 0]),
    "linear with a frozen weight": lambda _, y: F.linear(OTHER, OTHER[0, 0], y[0, 1, 0]),
    "linear with a frozen bias": lambda x, y: F.linear(x, y[0, 0], ROW),
    "conv1d": lambda x, y: F.conv1d(x[0], y[0, :, :, :3], y[0, 0, 0], 2, 1),
    "conv2d": lambda x, y: F.conv2d(x, y[:, :, :3, :3], x[0, 0, 0, :2], stride=2, padding=1),
    "conv2d in groups": lambda x, y: F.conv2d(x, y[0, :, :1, :3, None], None, 1, 0, 1, 4),
    "conv2d of one image": lambda x, y: F.conv2d(x[0], y[:, :, :3, :3], x[0, 0, 0, :2]),
    "conv2d of constants": lambda _, y: F.conv2d(IMAGE, y[:, :, :3, :3]),
    "conv2d with a frozen weight": lambda x, y: F.conv2d(x, WEIGHT, y[0, 0, 0, :3]),
    "conv3d": lambda x, y: F.conv3d(x[None], y[:, :, None, :3, :3].transpose(0, 1)[:2, :2]),
    "flatten": lambda x, _: torch.flatten(x, 1),
    "reshape": lambda x, _: x.reshape(4, -1),
    "view as another": lambda x, y: x.flatten().view_as(y),
    "permute": lambda x, _: x.permute(3, 1, 2, 0),
    "slices": lambda x, _: x[:, 1:3, ..., None, -1],
    "index": lambda x, _: x[INDEX, :, INDEX],
    "chunk": lambda x, _: x.chunk(2, 1)[1],
    "split": lambda x, _: x.split([1, 3], 1)[1],
    "unbind": lambda x, _: x.unbind(1)[2],
    "expand": lambda x, _: x[:1, :1].expand(2, 3, -1, -1),
    "squeeze": lambda x, _: x[:1].squeeze(0).unsqueeze(2),
    "clone": lambda x, _: x.clone().contiguous(),
    "type": lambda x, y: x.to(y),
    "mean": lambda x, _: x.mean((-2, -1)),
    "sum": lambda x, _: x.sum(1, keepdim=True),
    "average pooling": lambda x, _: F.avg_pool2d(x, 3, 2, padding=1),
    "adaptive pooling": lambda x, _: F.adaptive_avg_pool2d(x, 2),
    "max pooling": lambda x, _: F.max_pool2d(x, 3, 2, padding=1),
    "max pooling in one dimension": lambda x, _: F.max_pool1d(x[0], 2),
    "max pooling in three": lambda x, _: nn.MaxPool3d(2)(x),
    "pad": lambda x, _: F.pad(x, (1, 2), value=3.0),
    "reflect": lambda x, _: F.pad(x, (1, 2, 0, 1), mode="reflect"),
    "running statistics": lambda x, _: F.batch_norm(x, ROW, ROW.exp()),
    "running statistics, scaled": lambda x, y: F.batch_norm(
        x, ROW, ROW.exp(), y[0, 0, 0], y[1, 0, 0], eps=0.1
    ),
    "no dropout": lambda x, _: F.dropout(F.dropout(x, 0.5, training=False), 0.0),
    "in place": added_in_place,
    "in place on constants": added_to_constant,
    "activation in place": lambda x, y: F.silu(x * y, inplace=True),
    "activation in place, told by position": lambda x, y: F.elu(x * y, 1.0, True),
    "method in place": lambda x, y: (x * y).relu_(),
    "softplus with options": lambda x, _: F.softplus(x, beta=2.0),
    "leaky relu with options": lambda x, _: F.leaky_relu(x, 0.3),
    "detach": lambda x, y: x * x.detach() + y,
    "no_grad": lambda x, _: no_grad_scale(x),
    "item": lambda x, _: x * x.detach().max().item(),
    "softmax": lambda x, _: x.softmax(-1),
    "softmax of a function": lambda x, _: F.softmax(x, dim=1),
    "exponential": lambda x, _: x.exp(),
    "masked fill": lambda x, y: x.masked_fill(y.detach() > 0, -3.0),
    "addmm": lambda x, y: torch.addmm(y[0, 0, 0], x[0, 0], y[0, 1], beta=0.5, alpha=2),
    "addmm with a frozen matrix": lambda x, _: torch.addmm(ROW, x[0, 0], OTHER[0, 0]),
    "baddbmm": lambda x, y: torch.baddbmm(y[0], x[0], x[1]),
    "einsum": lambda x, y: torch.einsum("abij,acjk->bcik", x, y),
    "einsum of one": lambda x, _: torch.einsum("abii->ab", x),
    "attention": lambda x, y: F.scaled_dot_product_attention(x, y, x * y),
    "attention, causal": lambda x, y: F.scaled_dot_product_attention(x, y, y, is_causal=True),
    "attention, masked": lambda x, y: F.scaled_dot_product_attention(x, y, y, SEEN, scale=0.3),
    "attention, biased": lambda x, y: F.scaled_dot_product_attention(x, y, y, attn_mask=x),
    "attention in groups": lambda x, y: F.scaled_dot_product_attention(
        x, y[:, :2], y[:, 2:], enable_gqa=True
    ),
    "comparison": lambda x, y: x * (x > y),
    "cross-entropy": lambda x, _: summed_loss(x[0, 0], torch.arange(4), resolve("cross-entropy")),
    "any loss": lambda x, _: summed_loss(x[0, 0], torch.arange(4), resolve(quartic)),
}


def quartic(z: Tensor, y: Tensor) -> Tensor:
    return (z - y[:, None]).pow(4).sum(1)


def base(t: Tensor | None = None) -> tuple[nn.Parameter | Tensor, nn.Parameter | Tensor]:
    p, q = normal(2, 4, 4, 4, seed=1), normal(2, 4, 4, 4, seed=2)
    if t is None:
        return nn.Parameter(p), nn.Parameter(q)
    v, w = directions([p, q])
    return p + t * v, q + t * w


def curved(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Give x and y with second derivatives of their own."""
    return p * q + p, q * q - p


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rules_agree_with_autograd(name: str) -> None:
    parameters = list(base())
    function = FUNCTIONS[name]
    with Jets(parameters, directions(parameters)) as jets:
        got = jets.of(function(*curved(*parameters)))
    assert_jet(got, in_time(lambda t: function(*curved(*base(t)))))
    with Jets(parameters, directions(parameters)) as jets:  # where ẍ is zero
        got = jets.of(function(*parameters))
    assert_jet(got, in_time(lambda t: function(*base(t))))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "layer",
    [
        partial(nn.BatchNorm2d, 4),
        lambda: nn.BatchNorm2d(4).requires_grad_(requires_grad=False),
        partial(nn.InstanceNorm2d, 4),
        partial(nn.InstanceNorm2d, 4, affine=True),
        partial(nn.LayerNorm, (3, 3)),
        partial(nn.LayerNorm, 3, elementwise_affine=False),
    ],
)
def test_normalisation_agrees_with_autograd(
    layer: Callable[..., nn.Module], training: bool
) -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 2), layer(), nn.Tanh())).train(training)
    v, x = directions(list(trainable(model).values())), normal(3, 1, 4, 4)
    assert_jet(jet_of(model, v, x), network_in_time(model, v, x))


# networks


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_networks_agree_with_autograd(name: str, training: bool) -> None:
    case = BY_NAME[name]
    model = case.make_model().train(training)
    x = torch.cat([x for x, _ in case.batches])
    v = directions(list(trainable(model).values()))
    assert_jet(jet_of(model, v, x), network_in_time(model, v, x))


@pytest.mark.parametrize("name", set(activations.NAMES) - {"augmented_relu", "diminished_gelu"})
def test_activations_agree_with_autograd(name: str) -> None:
    beta = 3.0 if activations.ACTIVATIONS[name].takes_beta else None
    model = seeded(lambda: mlp(partial(activations.make, name, beta), 4, 5, 4, 3))
    v = directions(list(model.parameters()))
    assert_jet(jet_of(model, v, VECTORS), network_in_time(model, v, VECTORS))


# without a graph, what has no rule goes by forward mode

BY_FORWARD_MODE: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "product": lambda x, _: x.cumprod(1),
    "power": lambda x, y: x.square() ** (y / 4) + x**3,
    "where": lambda x, y: torch.where(x > 0, x * y, y.sin()),
    "largest": lambda x, _: x.max(1)[0],
    "group norm": lambda x, y: F.group_norm(x, 2, y[0, 0, 0], y[0, 1, 0]),
    "log softmax": lambda x, _: F.log_softmax(x, 1),
    "hard swish": lambda x, _: F.hardswish(x),
    "norm": lambda x, _: x.norm(dim=1),
    "einsum of three": lambda x, y: torch.einsum("abij,abjk,abkl->abil", x, y, x),
    "of lists": lambda x, y: torch.linalg.multi_dot([x[0, 0], y[0, 0], x[1, 1]]),
    "in place": lambda x, y: F.hardswish((x * y).clamp_(-2.0), inplace=True).pow_(3),
    "an option without a rule": lambda x, y: torch.add(x, y, alpha=2),
    "larger": lambda x, y: torch.maximum(input=x, other=y),
}


@pytest.mark.parametrize("name", BY_FORWARD_MODE)
def test_forward_mode_agrees_with_autograd(name: str) -> None:
    parameters = list(base())
    function = BY_FORWARD_MODE[name]
    with Jets(parameters, directions(parameters), graph=False) as jets:
        got = jets.of(function(*curved(*parameters)))
    assert_jet(got, in_time(lambda t: function(*curved(*base(t)))))


def heads(**options: Any) -> nn.Module:
    return nn.MultiheadAttention(4, 2, **options)


PADDED = torch.tensor([[0, 0, 1], [0, 0, 0]], dtype=torch.bool)
LATER = torch.ones(3, 3, dtype=torch.bool).triu(1)
HEADS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "first examples, no bias": ({"batch_first": True, "bias": False}, {"need_weights": False}),
    "padded": ({"batch_first": True}, {"key_padding_mask": PADDED}),
    "causal": (
        {"batch_first": True},
        {"attn_mask": LATER, "is_causal": True, "need_weights": False},
    ),
    "both": (
        {"batch_first": True},
        {"attn_mask": LATER, "key_padding_mask": PADDED, "average_attn_weights": False},
    ),
    "by head": ({"batch_first": True}, {"attn_mask": torch.linspace(0, 1, 36).view(4, 3, 3)}),
    "of other widths": ({"batch_first": True, "kdim": 5, "vdim": 3}, {}),
    "with biases of its own": ({"batch_first": True, "add_bias_kv": True}, {}),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_agree_with_autograd(name: str) -> None:
    options, call = HEADS[name]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.fc = heads(**options), nn.Linear(4, 4)
            for p in self.parameters():
                nn.init.normal_(p, std=0.5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc(x).tanh()
            keys = (x, x) if "kdim" not in options else (normal(2, 3, 5), normal(2, 3, 3))
            y, weights = self.heads(x, *keys, **call)
            return y if weights is None else torch.cat([y.flatten(), weights.flatten()])

    model, x = seeded(Model).double().eval(), normal(2, 3, 4)
    v = directions(list(trainable(model).values()))
    call = {
        key: of.double() if torch.is_tensor(of) and of.dtype == torch.float32 else of
        for key, of in call.items()
    }
    with exact_kernels(), Jets(list(trainable(model).values()), v, graph=False) as jets:
        jet = jets.of(model(x))
    assert_jet(jet, network_in_time(model, v, x))
