"""Products through double backward passes of our own, against torch's and dense truth."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, jvp, vmap
from torch.nn import functional as F

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.double_backward import DoubleBackward
from tests.cases import CASES, Case, normal, seeded
from tests.oracles import relative_error, truth_of

CONVOLUTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "plain": F.conv2d,
    "strides": lambda x, w, b: F.conv2d(x, w, b, (2, 1), (1, 2), dilation=2),
    "no bias": lambda x, w, b: F.conv2d(x, w) + b.sum(),
    "groups": lambda x, w, b: F.conv2d(x, w[:, :1], b, padding=1, groups=2),
    "same": lambda x, w, b: F.conv2d(x, w, b, padding="same"),
    "no batch": lambda x, w, b: F.conv2d(x[0], w, b),
    "by name": lambda x, w, b: F.conv2d(input=x, weight=w, bias=b),
    "one dimension": lambda x, w, b: F.conv1d(x[..., 0], w[..., 0], b, stride=2),
    "silu": lambda x, w, b: F.silu(F.conv2d(x, w, b)),
    "gelu": lambda x, w, b: F.gelu(F.conv2d(x, w, b), approximate="tanh"),
    "in place": lambda x, w, b: F.silu(F.conv2d(x, w, b), inplace=True),
}


def second(function: Callable[..., Tensor], *, within: bool) -> list[Tensor]:
    """Differentiate twice in every way that products do."""
    x, w, b = (normal(*shape).requires_grad_() for shape in ((2, 2, 7, 7), (4, 2, 3, 3), (4,)))
    mode = DoubleBackward()
    if within:
        with mode:
            y = function(x, w, b)
    else:
        y = function(x, w, b)
    c = normal(*y.shape, seed=3).requires_grad_()
    first = torch.autograd.grad(y, (x, w, b), c, create_graph=True)
    along = [normal(*tensor.shape, seed=4) for tensor in first]

    def differentiated(*inputs: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(first, inputs, along, retain_graph=True, materialize_grads=True)
        return [tensor.clone() for tensor in found]

    found = [*first, *differentiated(x, w, b, c)]
    mode.bends = False  # c alone
    found += differentiated(c)
    mode.bends = True
    return [*found, *differentiated(x, w, b)]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_double_backward_is_torchs(name: str) -> None:
    ours, torchs = (second(CONVOLUTIONS[name], within=within) for within in (True, False))
    for got, wanted in zip(ours, torchs, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-12)


def test_without_bends_curvature_costs_nothing() -> None:
    x = normal(5).requires_grad_()
    with (mode := DoubleBackward()):
        y = F.gelu(x)
    (slope,) = torch.autograd.grad(y, x, normal(5, seed=1), create_graph=True)
    (bent,) = torch.autograd.grad(slope, x, normal(5, seed=2), retain_graph=True)
    assert bent.abs().min() > 0
    mode.bends = False
    (none,) = torch.autograd.grad(
        slope, x, normal(5, seed=2), retain_graph=True, materialize_grads=True
    )
    assert not none.any()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_hessian_alone_is_dense_truth(case: Case) -> None:
    decomposition = Decomposition(*case)  # pyright: ignore[reportArgumentType]
    wanted = truth_of(case.name).hessian
    assert relative_error(decomposition.operator("hessian").dense(), wanted) < 1e-10


def test_within_transforms_torch_does_it() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU()).double()
    x = normal(3, 4, 1, 5, 5)
    with DoubleBackward():
        y = vmap(lambda x: functional_call(model, dict(model.named_parameters()), (x,)))(x)
    assert torch.allclose(y, torch.stack([model(part) for part in x]))


def backwards(net: nn.Module, x: Tensor) -> Tensor:
    def slope(y: Tensor) -> Tensor:
        return torch.autograd.grad(y.sum(), x, create_graph=True)[0]

    with torch.enable_grad():
        x = x.clone().requires_grad_()
        return slope(slope(net(x)))


def forwards(net: nn.Module, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        primal, tangent = forward_ad.unpack_dual(net(forward_ad.make_dual(x, torch.ones_like(x))))
        assert tangent is not None
        return primal * tangent


def transformed(net: nn.Module, x: Tensor) -> Tensor:
    ones = torch.ones_like(x)
    return jvp(lambda x: jvp(net, (x,), (ones,))[1], (x,), (ones,))[1]


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")  # torch's own
@pytest.mark.parametrize("differentiate", [backwards, forwards, transformed])
def test_a_network_may_differentiate_itself(
    differentiate: Callable[[nn.Module, Tensor], Tensor],
) -> None:
    class Physics(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv1d(1, 2, 2), nn.GELU(), nn.Conv1d(2, 1, 2), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            return differentiate(self.net, x).sin().flatten(1)

    model = seeded(Physics).double()
    x = normal(3, 1, 4)
    y = torch.zeros_like(model(x)).detach()
    parameters = dict(model.named_parameters())

    def risk(flat: Tensor) -> Tensor:
        parts = flat.split([p.numel() for p in parameters.values()])
        weights = {
            name: part.view_as(p) for (name, p), part in zip(parameters.items(), parts, strict=True)
        }
        return ((functional_call(model, weights, (x,)) - y) ** 2).mean()

    def gradient(flat: Tensor) -> Tensor:
        flat = flat.clone().requires_grad_()
        return torch.autograd.grad(risk(flat), flat)[0]

    flat = torch.cat([p.detach().flatten() for p in parameters.values()])
    steps = 1e-5 * torch.eye(len(flat), dtype=flat.dtype)
    wanted = torch.stack([gradient(flat + e) - gradient(flat - e) for e in steps]) / 2e-5
    decomposition = Decomposition(model, [(x, y)], "mse")
    alone = decomposition.operator("hessian").dense()
    parts = decomposition.operator("gn").dense() + decomposition.operator("nme").dense()
    assert relative_error(alone, wanted) < 1e-7
    assert relative_error(parts, wanted) < 1e-7
