"""Losses of the user's own: what they may return, and what is refused with a remedy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag.curvature.decomposition import PARTS, Decomposition
from hessdiag.errors import InputError
from tests.cases import WEIGHTS, labels, mlp, normal, robust, seeded, split
from tests.oracles import dense, relative_error

X, Y = normal(9, 4, seed=1), labels(9, seed=1)
IGNORED = Y.where(torch.arange(9) > 2, -100)
Function = Callable[[Tensor, Tensor], Any]


def network() -> nn.Module:
    return seeded(lambda: mlp(nn.Tanh, 4, 3, 3))


def one_by_one(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y, reduction="none")


def sum_and_weight(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    total = F.cross_entropy(z, y, weight=WEIGHTS, reduction="sum")
    return total, WEIGHTS[y.clamp(min=0)][y >= 0].sum()


@pytest.mark.parametrize("sizes", [(9,), (1, 8), (4, 1, 4)], ids=str)
@pytest.mark.parametrize(
    ("loss", "y", "same"),
    [
        (one_by_one, Y, F.cross_entropy),
        (sum_and_weight, IGNORED, nn.CrossEntropyLoss(weight=WEIGHTS)),
        (lambda z, y: robust(z, y), normal(9, 3, seed=2), robust),
        (nn.SmoothL1Loss(), normal(9, 3, seed=2), F.smooth_l1_loss),
        (lambda z, y: F.huber_loss(z, y, reduction="none"), normal(9, 3), F.huber_loss),
    ],
    ids=["one by one", "sum and weight", "mean", "module", "values"],
)
def test_what_a_loss_may_return(loss: Function, y: Tensor, same: Any, sizes: tuple[int, ...]):
    truth = dense(network(), [(X, y)], same)
    dec = Decomposition(network(), split(X, y, *sizes), loss)
    v = normal(dec.num_parameters)
    assert dec.gradient().loss == pytest.approx(truth.loss, rel=1e-12)
    for part in PARTS:
        assert relative_error(getattr(dec.products(v), part), getattr(truth, part) @ v) < 1e-11


def by_tokens(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y)


def contrast(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z @ z.T, torch.arange(len(z)))


def contrast_one_by_one(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z @ z.T, torch.arange(len(z)), reduction="none")


def mean_and_accuracy(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return F.cross_entropy(z, y), (z.argmax(1) == y).double().mean() + 0.1


NO_MEANS: dict[str, tuple[Function, Tensor]] = {
    "a sum": (lambda z, y: F.cross_entropy(z, y, reduction="sum"), Y),
    "class weights": (lambda z, y: F.cross_entropy(z, y, weight=WEIGHTS), Y),
    "ignored labels": (by_tokens, IGNORED),
    "a coupling of examples": (contrast, Y),
    "a coupling of values": (contrast_one_by_one, Y),
    "a mean and an accuracy": (mean_and_accuracy, Y),
    "a share of 1/N too much": (lambda z, y: F.mse_loss(z, y) / len(z), normal(9, 3)),
}


@pytest.mark.parametrize("sizes", [(5, 4), (8, 1), (1,) * 9], ids=str)
@pytest.mark.parametrize("kind", NO_MEANS)
def test_what_is_no_mean_over_examples_is_refused(kind: str, sizes: tuple[int, ...]):
    loss, y = NO_MEANS[kind]
    if kind in ("class weights", "ignored labels") and sizes == (1,) * 9:
        pytest.skip("of one example at a time such a mean is one")
    dec = Decomposition(network(), split(X, y, *sizes), loss)
    with pytest.raises(InputError, match=r"(?s)not a mean over examples.*\(sum, weight\)"):
        dec.gradient()


def test_a_sum_is_refused_of_one_batch_too():
    with pytest.raises(InputError, match="a sum over them"):
        Decomposition(
            network(), [(X, Y)], lambda z, y: F.cross_entropy(z, y, reduction="sum")
        ).gradient()


def test_a_pair_of_one_batch_is_of_sums_too():
    with pytest.raises(InputError, match="not a mean over examples"):
        Decomposition(network(), [(X, Y)], mean_and_accuracy).gradient()


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda z, y: F.cross_entropy(z, y[:2]), r"loss <lambda> fails.*\(9, 3\).*ValueError"),
        (lambda z, y: (F.cross_entropy(z, y), {"log": 1}), "does not return one number.*dict"),
        (lambda z, y: (F.cross_entropy(z, y), z), "does not return one number"),
    ],
    ids=["fails", "mapping", "tensor"],
)
def test_what_is_no_loss(loss: Function, words: str):
    with pytest.raises(InputError, match=f"(?s){words}"):
        Decomposition(network(), [(X, Y)], loss).gradient()


def test_an_exception_of_its_own_kind_passes():
    """As that of Taylor mode, which another way follows on."""

    class Own(Exception):
        pass

    def loss(z: Tensor, y: Tensor) -> Tensor:
        raise Own

    with pytest.raises(Own):
        Decomposition(network(), [(X, Y)], loss).gradient()


def test_of_one_batch_it_is_what_it_is():
    dec = Decomposition(network(), [(X, Y)], contrast)
    truth = contrast(network()(X), Y)
    assert dec.gradient().loss == pytest.approx(truth.item(), rel=1e-12)


def test_a_mean_over_outputs_of_changing_shape_is_refused():
    """Time before batch: the length of a batch is no number of examples."""
    x, y = normal(6, 5, 4), normal(6, 5, 3)
    batches = [(x[:, :4], y[:, :4]), (x[:, 4:], y[:, 4:])]
    with pytest.raises(InputError, match="shape changes"):
        Decomposition(network(), batches, lambda z, y: F.mse_loss(z, y)).gradient()
    named = Decomposition(network(), batches, "mse").gradient().loss
    assert named == pytest.approx(F.mse_loss(network()(x), y).item(), rel=1e-12)


def test_a_penalty_on_the_weights_is_refused():
    model = network()

    def penalised(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y) + 0.1 * sum(p.square().sum() for p in model.parameters())

    with pytest.raises(InputError, match="depends on the network's weights"):
        Decomposition(model, [(X, Y)], penalised).gradient()


def test_a_loss_may_have_weights_of_its_own():
    proxies = nn.Parameter(normal(3, 3, seed=7))

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z @ proxies, y)

    truth = dense(network(), [(X, Y)], lambda z, y: F.cross_entropy(z @ proxies.detach(), y))
    assert Decomposition(network(), [(X, Y)], loss).gradient().loss == pytest.approx(truth.loss)


def test_tensors_of_the_loss_follow_the_dtype():
    weights = WEIGHTS.float()

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3, 3)

        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(self.last(z).float(), y, weights, reduction="none")

    head = seeded(Head).float()
    wide = copy.deepcopy(head).double()
    truth = dense(
        network(),
        [(X, Y)],
        lambda z, y: F.cross_entropy(
            wide.last(z), y, WEIGHTS.float().double(), reduction="none"
        ).mean(),
    )
    dec = Decomposition(network(), [(X, Y.int())], head)
    assert relative_error(dec.operator("hessian").dense(), truth.hessian) < 1e-11
    assert dec.truth is not None
    assert dec.truth.note is None
    assert all(p.grad is None and p.dtype == torch.float32 for p in head.parameters())


def test_float_targets_follow_the_dtype():
    y = normal(9, 3).float()
    dec = Decomposition(network().float(), [(X, y)], nn.SmoothL1Loss(), dtype=torch.float64)
    assert dec.gradient().loss == pytest.approx(
        F.smooth_l1_loss(network().float().double()(X), y.double()).item(), rel=1e-12
    )


def test_torch_functions_are_read_as_their_modules():
    dec = Decomposition(network(), split(X, IGNORED, 4, 5), F.cross_entropy)
    assert dec.gradient().loss == pytest.approx(F.cross_entropy(network()(X), IGNORED).item())
    bound = partial(F.cross_entropy, weight=WEIGHTS, label_smoothing=0.1)
    dec = Decomposition(network(), split(X, IGNORED, 4, 5), bound)
    assert dec.gradient().loss == pytest.approx(bound(network()(X), IGNORED).item())
