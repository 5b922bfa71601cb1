"""φ'' of single calls: which are activations, and what their second derivative is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hessdiag.curvature import functions
from hessdiag.curvature.functions import Second, find_second

Spelling = Callable[[Tensor], Any]


class First(TorchFunctionMode):
    """Keep what is found of the first torch call within."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Second | None] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.found.append(find_second(func, args, kwargs))
        return func(*args, **kwargs)


def found_in(spelling: Spelling, x: Tensor) -> Second | None:
    x = x.clone()
    with First() as watcher:
        spelling(x)
    return watcher.found[0]


def points() -> Tensor:
    """Away from every kink of the table and to both sides of it."""
    return torch.linspace(-7.43, 7.61, 41, dtype=torch.float64)


def by_autograd(spelling: Spelling, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    first = torch.autograd.grad(spelling(x.clone()).sum(), x, create_graph=True)[0]
    if not first.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(first.sum(), x, materialize_grads=True)[0]


SLOPE = torch.full((1,), 0.2, dtype=torch.float64)
CLOSED: dict[str, tuple[str, Spelling]] = {
    "F.relu(x)": ("relu", F.relu),
    "F.relu(x, inplace)": ("relu", lambda x: F.relu(x, inplace=True)),
    "F.relu(x, True)": ("relu", lambda x: F.relu(x, True)),
    "F.relu(input=x)": ("relu", lambda x: F.relu(input=x)),
    "torch.relu": ("relu", torch.relu),
    "torch.relu_": ("relu", torch.relu_),
    "x.relu()": ("relu", lambda x: x.relu()),
    "x.relu_()": ("relu", lambda x: x.relu_()),
    "relu6": ("relu6", F.relu6),
    "hardtanh": ("hardtanh", lambda x: F.hardtanh(x, -2, 2)),
    "hardshrink": ("hardshrink", F.hardshrink),
    "softshrink": ("softshrink", F.softshrink),
    "threshold": ("threshold", lambda x: F.threshold(x, 0.3, 0.0)),
    "prelu": ("prelu", lambda x: F.prelu(x, SLOPE)),
    "rrelu": ("rrelu", F.rrelu),
    "leaky": ("leaky_relu", F.leaky_relu),
    "leaky slope": ("leaky_relu", lambda x: F.leaky_relu(x, 0.3, True)),
    "leaky slope by name": ("leaky_relu", lambda x: F.leaky_relu(x, negative_slope=0.3)),
    "clamp(min=0)": ("clamp", lambda x: x.clamp(min=0)),
    "clamp(0, 6)": ("clamp", lambda x: torch.clamp(x, 0, 6)),
    "clamp_(0)": ("clamp", lambda x: x.clamp_(0.0)),
    "clamp_min": ("clamp_min", lambda x: x.clamp_min(0)),
    "gelu": ("gelu", F.gelu),
    "gelu none": ("gelu", lambda x: F.gelu(x, approximate="none")),
    "gelu tanh": ("gelu_tanh", lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
    "silu": ("silu", lambda x: F.silu(x, inplace=True)),
    "mish": ("mish", F.mish),
    "torch.tanh": ("tanh", torch.tanh),
    "F.tanh": ("tanh", F.tanh),
    "x.tanh_()": ("tanh", lambda x: x.tanh_()),
    "x.sigmoid()": ("sigmoid", lambda x: x.sigmoid()),
    "F.sigmoid": ("sigmoid", F.sigmoid),
    "expit": ("special_expit", torch.special.expit),
    "softplus": ("softplus", F.softplus),
    "softplus(x, 3)": ("softplus", lambda x: F.softplus(x, 3.0)),
    "softplus(beta=3)": ("softplus", lambda x: F.softplus(x, beta=3.0, threshold=20)),
    "elu": ("elu", F.elu),
    "elu alpha": ("elu", lambda x: F.elu(x, 0.4, True)),
    "elu alpha by name": ("elu", lambda x: F.elu(x, alpha=0.4)),
    "celu alpha": ("celu", lambda x: F.celu(x, 2.5)),
    "selu": ("selu", F.selu),
    "x.selu_": ("selu", torch.selu_),
}
NUMERICAL: dict[str, tuple[str, Spelling]] = {
    "softplus threshold": ("softplus", lambda x: F.softplus(x, 1.0, 3.0)),
    "softplus threshold by name": ("softplus", lambda x: F.softplus(x, threshold=3.0)),
    "pow": ("pow", lambda x: x.pow(2)),
    "torch.pow": ("pow", lambda x: torch.pow(x, 3)),
    "pow by name": ("pow", lambda x: torch.pow(x, exponent=3)),
    "** 2": ("pow", lambda x: x**2),
    "square": ("square", torch.square),
    "x.square_()": ("square", lambda x: x.square_()),
    "hardswish": ("hardswish", lambda x: F.hardswish(x, inplace=True)),
    "logsigmoid": ("log_sigmoid", F.logsigmoid),
    "softsign": ("softsign", F.softsign),
    "tanhshrink": ("tanhshrink", F.tanhshrink),
    "sin": ("sin", torch.sin),
    "x.cos()": ("cos", lambda x: x.cos()),
    "atan": ("atan", torch.atan),
    "asinh": ("asinh", torch.asinh),
    "erf": ("erf", torch.erf),
}
OTHERS: dict[str, Spelling] = {
    "clamp(min=1e-6)": lambda x: x.clamp(min=1e-6),
    "clamp(max)": lambda x: x.clamp(max=3.0),
    "** tensor": lambda x: x ** torch.tensor(2.0),
    "2 ** x": lambda x: 2**x,
    "sqrt": lambda x: x.abs().sqrt(),
    "** 0.5": lambda x: x**0.5,
    "** 1": lambda x: x**1,
    "exp": torch.exp,
    "log": torch.log,
    "softmax": lambda x: F.softmax(x, 0),
    "layer_norm": lambda x: F.layer_norm(x, x.shape),
    "dropout": F.dropout,
    "add": lambda x: x + 1,
}


@pytest.mark.parametrize("case", CLOSED)
def test_closed_forms_are_what_autograd_gives(case: str):
    name, spelling = CLOSED[case]
    x = points()
    found = found_in(spelling, x)
    assert found is not None
    assert found.name == name
    assert found.curve is not None
    torch.testing.assert_close(found.second(x), by_autograd(spelling, x), rtol=1e-9, atol=1e-12)


def test_hardsigmoid_has_none_though_torch_cannot_say_so():
    found = found_in(F.hardsigmoid, points())
    assert found is not None
    assert torch.count_nonzero(found.second(points())) == 0


@pytest.mark.parametrize("case", NUMERICAL)
def test_other_functions_are_differentiated_numerically(case: str):
    name, spelling = NUMERICAL[case]
    x = points()
    before = x.clone()
    found = found_in(spelling, x)
    assert found is not None
    assert found.name == name
    assert found.curve is None
    torch.testing.assert_close(found.second(x), by_autograd(spelling, x), rtol=1e-12, atol=1e-14)
    assert torch.equal(x, before)


@pytest.mark.parametrize("case", OTHERS)
def test_arithmetic_is_no_activation(case: str):
    assert found_in(OTHERS[case], points()) is None


def test_a_clamp_between_tensors_is_no_error():
    """``==`` of a tensor with zero has no truth value."""
    assert found_in(lambda x: x.clamp(min=-torch.ones_like(x)), points()) is None


def test_the_beta_of_softplus_is_told():
    for spelling, beta in ((lambda x: F.softplus(x, 3), 3.0), (F.softplus, 1.0)):
        found = found_in(spelling, points())
        assert found is not None
        assert found.beta == beta


def test_calls_without_a_tensor_are_passed_over():
    assert find_second(torch.relu, (), {}) is None
    assert find_second(torch.relu, ([1.0],), {}) is None


def test_the_tables_hold_no_wrong_name():
    """Every function of the tables must be one that torch has."""
    names = {*functions._CURVES, *functions._PIECEWISE_LINEAR, *functions._NUMERICAL}
    names -= {"special_expit", "special_erf", "special_erfc", "log_sigmoid"}  # as C names them
    places = (F, torch, Tensor)
    assert [n for n in names if not any(hasattr(place, n) for place in places)] == []


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_of_a_gated_linear_unit_the_gate_is_the_pre_activation(dim: int):
    x = torch.arange(24.0).view(4, 6)
    for args, options in (((x, dim), {}), ((x,), {"dim": dim})):
        found = find_second(F.glu, args, options)
        assert found is not None
        assert torch.equal(found.x, x.chunk(2, dim)[1])
