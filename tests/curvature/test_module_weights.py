"""Weights that are kept, tied or moved in other ways than as a module's parameters."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.errors import InputError
from tests.cases import mlp, normal, seeded
from tests.curvature.test_module import DATA, X, Y, differences
from tests.oracles import relative_error


class Kept(nn.Module):
    """A weight that is kept in a list, too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.kept = [self.b.weight, self.b.bias]

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.linear(self.a(x).tanh(), *self.kept).tanh())


class Closed(nn.Module):
    """A function that holds on to the module."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
        self.function = lambda x: F.linear(x, self.b.weight)
        self.partial = partial(lambda bias, x: x + self.b.bias * bias, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.partial(self.function(self.a(x).tanh()))


@pytest.mark.parametrize("build", [Kept, Closed])
def test_weights_that_are_reached_in_two_ways(build: type[nn.Module]):
    def make() -> nn.Module:
        model = seeded(build)
        if isinstance(model, Kept):
            model.kept = [model.b.weight, model.b.bias]
        return model

    model = make()
    dec = Decomposition(model, DATA)
    v = normal(dec.num_parameters, seed=61)
    assert relative_error(dec.products(v).hessian, differences(model, X, Y, v)) < 1e-6


class Caching(Kept):
    """A cache in a mapping, which the first call fills."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, list[Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        kept = self.cache.setdefault("b", [self.b.weight * 2, self.b.bias])
        return self.c(F.linear(self.a(x).tanh(), *kept).tanh())


def test_caches_start_each_call_as_they_were():
    model = seeded(Caching)
    dec = Decomposition(model, DATA)
    v = normal(dec.num_parameters, seed=61)
    found = dec.products(v).hessian
    model.forward = lambda x: (model.cache.clear(), Caching.forward(model, x))[1]  # type: ignore[method-assign]
    assert relative_error(found, differences(model, X, Y, v)) < 1e-6


@pytest.mark.parametrize("how", ["view", "copy of the graph", "buffer"])
def test_what_is_made_from_a_weight_and_kept_is_refused(how: str):
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)))
    weight = model.get_parameter("0.weight")
    if how == "buffer":
        model.register_buffer("extra", weight.detach())
    else:
        model.extra = weight.detach() if how == "view" else weight * 2
    model.forward = lambda x: model[2](model[1](model[0](x)) @ model.extra)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="do not reach"):
        Decomposition(model, DATA).gradient()


def test_parameters_of_one_memory_are_refused():
    model = seeded(lambda: mlp(nn.GELU, 4, 4, 4))
    model.get_parameter("fc2.weight").data = model.get_parameter("fc1.weight").data
    with pytest.raises(InputError, match="share one memory"):
        Decomposition(model, DATA)


# Weights that forward changes


class Clipped(nn.Linear):
    bound = 0.1

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data.clamp_(-self.bound, self.bound)
        return super().forward(x)


class Moving(nn.Linear):
    """Weights that a call changes in a way of its own."""

    how = "turned"

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "turned":
            self.weight.data = self.weight.data.flip(0)
        elif self.how == "replaced":
            self.weight = nn.Parameter(self.weight.detach().clamp(-0.1, 0.1))
        elif len(x) < 4:
            self.weight.data.clamp_(-0.1, 0.1)
        return super().forward(x)


@pytest.mark.parametrize("how", ["clipped", "turned", "replaced", "in the last batch", "frozen"])
def test_a_network_that_moves_its_weights_is_refused_and_left_alone(how: str):
    layer = Clipped if how in ("clipped", "frozen") else Moving
    model = seeded(lambda: nn.Sequential(layer(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    if layer is Moving:
        model[0].how = how  # pyright: ignore[reportAttributeAccessIssue]
    model[0].requires_grad_(how != "frozen")
    before = model.get_parameter("0.weight").clone()
    with pytest.raises(InputError, match=r"changes its own weights.*\n.*weight"):
        Decomposition(model, [(X, Y), (X[:3], Y[:3])]).gradient()
    assert torch.equal(before, model.get_parameter("0.weight"))


def test_a_lazy_network_is_called_first():
    with pytest.raises(InputError, match="no shape yet"):
        Decomposition(nn.LazyLinear(3), DATA)


def test_a_constraint_that_holds_is_no_constraint():
    model = seeded(lambda: nn.Sequential(Clipped(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    model[0].bound = 10.0  # pyright: ignore[reportAttributeAccessIssue]
    dec = Decomposition(model, DATA)
    v = normal(43, seed=62)
    assert relative_error(dec.products(v).hessian, differences(model, X, Y, v)) < 1e-6


# Words for errors
