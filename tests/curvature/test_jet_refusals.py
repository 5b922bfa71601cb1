"""What Taylor mode has no rule for is refused: nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag.curvature.jet_rules import Unsupported
from hessdiag.curvature.jets import Jets
from hessdiag.nets import activations
from tests.cases import VECTORS, Doubled, mlp, seeded
from tests.curvature.test_jets import base, curved, directions, jet_of


def sliced(x: Tensor, y: Tensor) -> Tensor:
    z = x * y
    z[0] = 0
    return z + y


def filled(x: Tensor, y: Tensor) -> Tensor:
    z = torch.zeros_like(x)
    z[0] = x[0]
    return z + y


def changed_through_a_view(x: Tensor, y: Tensor) -> Tensor:
    z = x * y
    z.view(-1).mul_(2)
    return z + y


def changed_under_no_grad(x: Tensor, y: Tensor) -> Tensor:
    z = x * y
    with torch.no_grad():
        z.mul_(2)
    return z + y


def inner_gradient(x: Tensor, y: Tensor) -> Tensor:
    return torch.autograd.grad(x.square().sum(), x, create_graph=True)[0]


RECURRENT = seeded(lambda: nn.LSTM(4, 2)).requires_grad_(requires_grad=False)
REFUSED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a function without a rule": lambda x, _: x.cumprod(1),
    "a function of one's own": lambda x, y: Doubled.apply(x) + y,
    "a function of one's own at the end": lambda x, _: Doubled.apply(x),
    "a recurrent layer": lambda x, _: RECURRENT(x[0])[0],
    "a gradient": inner_gradient,
    "dropout": lambda x, _: F.dropout(x, 0.5),
    "a root": lambda x, _: (x * x) ** 0.75,
    "attention with dropout": lambda x, y: F.scaled_dot_product_attention(x, y, y, dropout_p=0.5),
    "a tensor's power": lambda x, y: x**y,
    "options without a rule": lambda x, y: torch.add(x, y, alpha=2),
    "a slice set": sliced,
    "a constant filled": filled,
    "a view changed": changed_through_a_view,
    "a change under no_grad": changed_under_no_grad,
    "normalisation that is not composed": lambda x, _: F.batch_norm(x, None, None, training=True),
    "a loss that is not ours": lambda x, _: F.cross_entropy(x[0, 0], torch.arange(4)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused(name: str) -> None:
    parameters = list(base())
    with Jets(parameters, directions(parameters)) as jets, pytest.raises(Unsupported):
        jets.of(REFUSED[name](*curved(*parameters)))


def test_a_parameter_that_is_left_out_is_refused() -> None:
    p, q = base()
    with Jets([p], directions([p])), pytest.raises(Unsupported):
        p * q


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_scripted_modules_are_refused() -> None:
    model = seeded(lambda: mlp(nn.Tanh, 4, 5, 3))
    model.register_module("act1", torch.jit.script(nn.Tanh()))
    with pytest.raises(Unsupported):
        jet_of(model, directions(list(model.parameters())), VECTORS)


def test_surrogate_activations_are_refused() -> None:
    model = seeded(lambda: mlp(partial(activations.make, "augmented_relu"), 4, 5, 3))
    with pytest.raises(Unsupported):
        jet_of(model, directions(list(model.parameters())), VECTORS)


def test_tensors_that_are_gone_leave_the_table() -> None:
    p, q = base()
    with Jets([p, q], directions([p, q])) as jets:
        x = p + q
        before = len(jets._table)
        for _ in range(3):
            x = x + q
        assert len(jets._table) == before
