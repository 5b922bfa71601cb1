"""Bad models, data, losses and vectors stop with an error that names the culprit."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.errors import InputError
from tests.cases import cnn, labels, normal, seeded, split

NAN, INF = float("nan"), float("inf")
X, Y = normal(6, 4, seed=30), labels(6, seed=30)
BATCHES = split(X, Y, 4, 2)
Use = Callable[[Decomposition], object]


class Elementwise(nn.Module):
    """Apply one function to every entry."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def network(middle: Callable[[Tensor], Any] = torch.tanh) -> nn.Module:
    def build() -> nn.Module:
        stem, body, head = nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, 3)
        return nn.Sequential(
            OrderedDict(stem=stem, middle=Elementwise(middle), body=body, head=head)
        )

    return seeded(build)


def gradient(dec: Decomposition) -> object:
    return dec.gradient()


def products(dec: Decomposition) -> object:
    return dec.products(normal(dec.num_parameters, seed=31))


each_use = pytest.mark.parametrize("use", [gradient, products])


def refuse(use: Use, *args: Any, names: str, **options: Any) -> None:
    """Expect the error at construction or at the use, with the pattern of the culprit in it."""
    with pytest.raises(InputError) as caught:
        use(Decomposition(*args, **options))
    assert re.search(names, str(caught.value), re.IGNORECASE | re.DOTALL), str(caught.value)


# Numbers that are not finite


@each_use
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", ["stem.weight", "body.bias", "head.weight"])
def test_weights(use: Use, name: str, value: float):
    model = network()
    model.get_parameter(name).data.view(-1)[1] = value
    refuse(use, model, BATCHES, names=name.split(".")[0])


@each_use
def test_frozen_weights(use: Use):
    model = network()
    model.get_submodule("body").requires_grad_(requires_grad=False)
    model.get_parameter("body.weight").data[0, 0] = NAN
    refuse(use, model, BATCHES, names="body")


@each_use
@pytest.mark.parametrize("buffer", ["running_mean", "running_var"])
def test_buffers(use: Use, buffer: str):
    model = seeded(cnn)
    model.get_buffer(f"bn2.{buffer}")[1] = NAN
    refuse(use, model, split(normal(3, 1, 5, 5), labels(3), 2, 1), names="bn2")


@each_use
@pytest.mark.parametrize("value", [NAN, INF])
def test_inputs(use: Use, value: float):
    x = X.clone()
    x[5, 2] = value
    refuse(use, network(), split(x, Y, 4, 2), names="input")


@each_use
@pytest.mark.parametrize("value", [NAN, INF])
def test_targets(use: Use, value: float):
    y = normal(6, 3)
    y[5, 2] = value
    refuse(use, network(), split(X, y, 4, 2), "mse", names="target|label|loss")


@each_use
def test_outputs(use: Use):
    refuse(use, network(middle=torch.log), BATCHES, names="middle|output|loss")


@each_use
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_loss(use: Use, value: float):
    def loss(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y) + (value if len(z) == 2 else 0)

    refuse(use, network(), BATCHES, loss, names="loss")


@each_use
def test_gradients(use: Use):
    """A root has a value at zero but no derivative."""
    refuse(use, network(middle=lambda x: (0 * x).sqrt()), BATCHES, names="stem")


def test_second_derivatives():
    """A power of 3/2 has a derivative at zero but no second one."""
    dec = Decomposition(network(middle=lambda x: (0 * x).pow(1.5)), BATCHES)
    assert dec.gradient().vector.isfinite().all()
    with pytest.raises(InputError, match="stem"):
        products(dec)


def test_weights_are_those_of_construction():
    """Whatever becomes of the module afterwards, all products belong to one θ."""
    model = network()
    dec, wanted = Decomposition(model, BATCHES), Decomposition(network(), BATCHES).gradient()
    model.get_parameter("body.weight").data[0, 0] = NAN
    assert torch.equal(dec.gradient().vector, wanted.vector)


# Data that do not fit


@each_use
@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
@pytest.mark.parametrize("label", [3, 17, -1])
def test_labels_out_of_range(use: Use, loss: str, label: int):
    y = Y.clone()
    y[5] = label
    refuse(use, network(), split(X, y, 4, 2), loss, names=r"\b0\b.*\b[23]\b")


WRONG_TARGETS = {
    "real numbers": ("cross-entropy", Y.double()),
    "a column of classes": ("cross-entropy", Y[:, None]),
    "probabilities of too many classes": ("cross-entropy", normal(6, 4).softmax(1)),
    "one number an example": ("mse", normal(6)),
    "a column of numbers": ("mse", normal(6, 1)),
    "too many numbers": ("mse", normal(6, 4)),
}


@each_use
@pytest.mark.parametrize("kind", WRONG_TARGETS)
def test_targets_of_the_wrong_kind(use: Use, kind: str):
    loss, y = WRONG_TARGETS[kind]
    refuse(use, network(), split(X, y, 4, 2), loss, names="label|target")


@each_use
def test_another_number_of_labels(use: Use):
    refuse(use, network(), [(X, Y[:5])], names="label|target|example")


EMPTY = {
    "no batches": list,
    "an exhausted iterator": lambda: iter(()),
    "batches without examples": lambda: [(X[:0], Y[:0])] * 2,
    "ignored labels only": lambda: [(X, torch.full_like(Y, -100))],
}


@each_use
@pytest.mark.parametrize("kind", EMPTY)
def test_no_examples(use: Use, kind: str):
    refuse(use, network(), EMPTY[kind](), names="empty|batch|example|label|target")


@each_use
@pytest.mark.parametrize("batch", [X, (X,), (X, Y, Y), {"x": X, "y": Y}, None], ids=repr)
def test_batches_that_are_not_pairs(use: Use, batch: object):
    refuse(use, network(), [batch], names="batch|pair")


# Models and losses that do not fit

OUTPUTS: dict[str, Callable[[Tensor], object]] = {
    "tuple": lambda x: (x, x),
    "dict": lambda x: {"a": x, "b": x},
    "none": lambda _: None,
}


@each_use
@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_that_are_not_a_tensor(use: Use, kind: str):
    model = nn.Sequential(nn.Linear(4, 3), Elementwise(OUTPUTS[kind])).double()
    refuse(use, model, BATCHES, names="output|tensor")


class Once(torch.autograd.Function):
    """The square, differentiable once; autograd.grad takes its second derivative for zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grad


def test_operations_without_a_second_derivative():
    refuse(products, network(middle=Once.apply), BATCHES, names="derivative")


@each_use
def test_a_backward_pass_that_fails(use: Use):
    refuse(use, network(middle=lambda x: x.tanh_().mul_(1.5)), BATCHES, names="in place")


@each_use
def test_no_trainable_parameters(use: Use):
    refuse(use, network().requires_grad_(requires_grad=False), BATCHES, names="parameter")
    refuse(use, nn.Tanh(), BATCHES, names="parameter")


@each_use
@pytest.mark.parametrize("params", ["neck.*", ["head.*", "neck.*"]], ids=str)
def test_patterns_that_match_nothing(use: Use, params: str | list[str]):
    refuse(use, network(), BATCHES, params=params, names="neck")


WRONG_LOSSES = {
    "unknown name": ("crossentropy", "crossentropy.*cross-entropy"),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), "reduction"),
    "no reduction": (nn.MSELoss(reduction="none"), "reduction"),
    "three numbers": (lambda *both: (*both, 2.0), "loss"),
    "a plain number": (lambda *_: 1.0, "loss"),
    "not callable": (3, "loss"),
}


@each_use
@pytest.mark.parametrize("kind", WRONG_LOSSES)
def test_losses(use: Use, kind: str):
    loss, names = WRONG_LOSSES[kind]
    refuse(use, network(), BATCHES, loss, names=names)


OPTIONS = [("bn", "train"), ("dtype", torch.int64), ("device", "gramophone")]


@each_use
@pytest.mark.parametrize(("option", "value"), OPTIONS)
def test_options(use: Use, option: str, value: object):
    refuse(use, network(), BATCHES, names=f"{option}|{value}", **{option: value})


# Vectors and parts


@pytest.mark.parametrize("shape", [(), (63,), (65,), (2, 63), (64, 2), (1, 2, 64)], ids=str)
def test_vectors_of_the_wrong_shape(shape: tuple[int, ...]):
    dec = Decomposition(network(), BATCHES)
    assert dec.num_parameters == 25 + 24 + 15
    with pytest.raises(InputError, match="64"):
        dec.products(normal(*shape))


def test_vectors_that_are_not_finite():
    dec = Decomposition(network(), BATCHES)
    v = normal(2, dec.num_parameters)
    v[1, 3] = NAN
    with pytest.raises(InputError, match=r"(?i)finite|nan"):
        dec.products(v)


def test_parts():
    dec = Decomposition(network(), BATCHES)
    with pytest.raises(InputError, match="hesian"):
        dec.products(normal(dec.num_parameters), parts=("gn", "hesian"))
    with pytest.raises(InputError, match="hesian"):
        dec.operator("hesian")
