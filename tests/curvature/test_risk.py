"""The risk: what it averages and how, over which parameters, and in which precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.errors import InputError
from hessdiag.parts import PARTS
from tests.cases import (
    BY_NAME,
    CASES,
    SOFT,
    WEIGHTS,
    Batch,
    Case,
    labels,
    mlp,
    normal,
    robust,
    seeded,
    split,
)
from tests.oracles import Dense, dense, relative_error, truth_of


def assert_agrees(dec: Decomposition, truth: Dense, tolerance: float = 1e-11) -> None:
    """Compare loss, gradient and all three products with the dense truth."""
    gradient, v = dec.gradient(), normal(2, dec.num_parameters, seed=20)
    assert gradient.loss == pytest.approx(truth.loss, rel=max(tolerance, 1e-12))
    assert relative_error(gradient.vector, truth.gradient) < tolerance
    products = dec.products(v.to(gradient.vector))
    for part in PARTS:
        assert relative_error(getattr(products, part), v @ getattr(truth, part)) < tolerance, part


# Averages weigh every example equally


@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_and_gradient(case: Case):
    gradient, truth = Decomposition(*case).gradient(), truth_of(case.name)
    assert isinstance(gradient.loss, float)
    assert gradient.loss == pytest.approx(truth.loss, rel=1e-12)
    assert relative_error(gradient.vector, truth.gradient) < 1e-12


X, Y = normal(20, 4, seed=21), labels(20, seed=21)
COUNTED = (torch.arange(20) % 7 == 0) | (torch.arange(20) > 14)  # some in every batch below
LOSSES = {
    "cross-entropy": ("cross-entropy", Y),
    "mse": ("mse", normal(20, 3, seed=22)),
    "mse of labels": ("mse", Y),
    "mse module": (nn.MSELoss(), normal(20, 3, seed=22)),
    "label smoothing": (nn.CrossEntropyLoss(label_smoothing=0.3), Y),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHTS), Y),
    "ignored labels": ("cross-entropy", Y.where(COUNTED, -100)),
    "another ignored label": (nn.CrossEntropyLoss(ignore_index=7), Y.where(COUNTED, 7)),
    "all of it": (
        nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.3),
        Y.where(COUNTED, -100),
    ),
    "soft labels": ("cross-entropy", SOFT[torch.arange(20) % 9]),
    "callable": (robust, normal(20, 3, seed=22)),
}


def narrow() -> nn.Module:
    return seeded(lambda: mlp(nn.GELU, 4, 3, 3))


@cache
def truth_of_one_batch(kind: str) -> Dense:
    loss, y = LOSSES[kind]
    return dense(narrow(), [(X, y)], loss)


@pytest.mark.parametrize("sizes", [(20,), (18, 2), (1, 19), (7, 6, 7)], ids=str)
@pytest.mark.parametrize("kind", LOSSES)
def test_every_split_is_one_batch(kind: str, sizes: tuple[int, ...]):
    loss, y = LOSSES[kind]
    assert_agrees(Decomposition(narrow(), split(X, y, *sizes), loss), truth_of_one_batch(kind))


def test_a_batch_of_ignored_labels_only_counts_for_nothing():
    x, y = normal(6, 4), labels(6)
    y[2:5] = -100
    model = narrow()
    truth = dense(model, [(x, y)], "cross-entropy")
    assert_agrees(Decomposition(model, split(x, y, 2, 3, 1)), truth)


def test_accuracy_is_the_share_of_right_labels():
    case = BY_NAME["mlp-gelu"]
    model, batches, _ = case
    right = sum((model(x).argmax(1) == y).sum().item() for x, y in batches)
    assert Decomposition(*case).gradient().accuracy == pytest.approx(right / 9, abs=1e-15)
    assert Decomposition(*BY_NAME["mlp-tanh-mse"]).gradient().accuracy is None


# Parameters


def test_unused_parameters_have_zero_rows():
    dec = Decomposition(*BY_NAME["unused"])
    idle = torch.zeros(dec.num_parameters, dtype=torch.bool)
    for name in ("idle.weight", "idle.bias"):
        idle[dec.layout.slices[name]] = True
    assert idle.sum() == 8
    products = dec.products(normal(2, dec.num_parameters))
    for part in PARTS:
        assert (getattr(products, part)[:, idle] == 0).all()
    assert (products.hessian[:, ~idle] != 0).all()
    assert ((dec.gradient().vector == 0) == idle).all()


def test_frozen_and_tied_parameters_are_counted_right():
    frozen = Decomposition(*BY_NAME["frozen"])
    assert frozen.layout.names == ("fc1.weight", "fc1.bias", "fc3.weight", "fc3.bias")
    shared = Decomposition(*BY_NAME["shared"])
    assert shared.num_parameters == 12 + 3 + 9 + 3 + 4


def test_a_tied_weight_is_chosen_by_any_of_its_names():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    assert isinstance(model[2], nn.Linear)
    model[2].weight = model[0].weight
    data = [(normal(4, 3).float(), torch.tensor([0, 1, 2, 0]))]
    for glob, chosen in (("0.*", ("0.weight", "0.bias")), ("2.*", ("0.weight", "2.bias"))):
        assert Decomposition(model, data, params=glob).layout.names == chosen


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ("fc2.*", ("fc2.weight", "fc2.bias")),
        ("*.weight", ("fc1.weight", "fc2.weight", "fc3.weight")),
        (["fc3.bias", "fc1.*"], ("fc1.weight", "fc1.bias", "fc3.bias")),
        ("*", ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias")),
    ],
)
def test_chosen_parameters_give_the_block(params: str | list[str], names: tuple[str, ...]):
    case, truth = BY_NAME["mlp-gelu"], truth_of("mlp-gelu")
    whole, chosen = Decomposition(*case), Decomposition(*case, params=params)
    assert chosen.layout.names == names
    rows = torch.cat(
        [torch.arange(whole.num_parameters)[whole.layout.slices[name]] for name in names]
    )
    for part in PARTS:
        block = getattr(truth, part)[rows][:, rows]
        assert relative_error(chosen.operator(part).dense(), block) < 1e-11
    assert relative_error(chosen.gradient().vector, truth.gradient[rows]) < 1e-12


# Precision


@pytest.mark.parametrize("name", ["mlp-gelu", "cnn-gelu-bn", "attention", "mlp-softplus-weights"])
def test_double_precision_of_a_single_precision_model(name: str):
    model, batches, loss = BY_NAME[name]
    model = model.float()
    batches = [(x.float() if x.is_floating_point() else x, y) for x, y in batches]
    if isinstance(loss, nn.CrossEntropyLoss):
        loss = nn.CrossEntropyLoss(weight=loss.weight.float(), label_smoothing=loss.label_smoothing)
    dec = Decomposition(model, batches, loss, dtype=torch.float64)
    v = normal(dec.num_parameters)
    products, gradient = dec.products(v), dec.gradient()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    exact = [(x.double() if x.is_floating_point() else x, y) for x, y in batches]
    if isinstance(loss, nn.CrossEntropyLoss):
        loss = nn.CrossEntropyLoss(
            weight=loss.weight.double(), label_smoothing=loss.label_smoothing
        )
    truth = dense(model.double(), exact, loss)
    assert relative_error(gradient.vector, truth.gradient) < 1e-12
    for part in PARTS:
        assert getattr(products, part).dtype == torch.float64
        assert relative_error(getattr(products, part), getattr(truth, part) @ v) < 1e-11


# The data


def test_a_generator_is_read_once_and_kept():
    case = BY_NAME["mlp-gelu"]
    model, batches, loss = case
    dec = Decomposition(model, (batch for batch in batches), loss)
    for _ in range(2):
        assert_agrees(dec, truth_of(case.name))


class Drawn:
    """Batches drawn anew at every pass."""

    def __init__(self, draw: Callable[[int], list[Batch]]) -> None:
        self.draw, self.passes = draw, 0

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        return iter(self.draw(self.passes))


def test_another_order_of_the_examples_is_the_same_risk():
    x, y = normal(9, 4, seed=24), labels(9, seed=24)
    model = narrow()
    loader = DataLoader(
        TensorDataset(x, y), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3)
    )
    dec = Decomposition(model, loader)
    for _ in range(3):
        assert_agrees(dec, dense(model, [(x, y)], "cross-entropy"))


def altered(change: str, x: Tensor, y: Tensor, count: int) -> list[Batch]:
    """Draw the batches of one pass; any two passes in a row differ."""
    odd = count % 2
    first, second, last = split(x, y, 4, 4, 1)
    noise = 0.1 * normal(*x.shape, seed=count)
    passes = {
        "noise": split(x + noise, y, 5, 4),
        "one example": [first, second, (last[0] * (-1) ** count, last[1])],
        "one label": [first, second, (last[0], last[1] * 0 + odd)],
        "one batch fewer": [first, second, last] if odd else [first, second],
        "one batch twice": [first, second, last] if odd else [first, first, last],
        "everything twice": [first, second, last] * (1 + odd),
        "none left": [first, second, last] if odd else [],
    }
    return passes[change]


CHANGES = [
    "noise",
    "one example",
    "one label",
    "one batch fewer",
    "one batch twice",
    "everything twice",
    "none left",
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("first", ["gradient", "products"])
def test_data_that_change_between_passes_are_refused(change: str, first: str):
    x, y = normal(9, 4, seed=24), labels(9, seed=24)
    drawn = Drawn(lambda count: altered(change, x, y, count))

    def passes() -> None:
        dec = Decomposition(narrow(), drawn)
        v = normal(dec.num_parameters)
        dec.gradient() if first == "gradient" else dec.products(v)
        for _ in range(2):
            dec.products(v)

    with pytest.raises(InputError, match=r"(?i)batch|data|example|pass"):
        passes()


def test_a_network_that_changes_between_passes_is_refused():
    scale = [1.0]

    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return scale[0] * super().forward(x)

    dec = Decomposition(seeded(lambda: Scaled(4, 3)), split(X, Y, 18, 2))
    v = normal(dec.num_parameters)
    dec.products(v)
    scale[0] = 2.0
    with pytest.raises(InputError, match="changed"):
        dec.products(v)
