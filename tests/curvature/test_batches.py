"""Batches of any form give the numbers of plain pairs; what cannot be read is refused in words."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.errors import InputError
from tests.cases import generator, labels, mlp, normal, seeded

X, Y = normal(7, 4, seed=1), labels(7, seed=1)
WEIGHTS = torch.arange(7).double()
SECOND = normal(7, 3, seed=2)


class Two(nn.Module):
    """Two inputs, by position or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(nn.Tanh, 4, 3, 3)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.body(first) * second


class Named(NamedTuple):
    x: Tensor
    y: Tensor


class Fields(NamedTuple):
    second: Tensor
    labels: Tensor
    first: Tensor


@dataclass
class Together:
    x: Tensor
    y: Tensor


@dataclass
class Labelled:
    extra: Tensor
    labels: Tensor
    input: Tensor


class Rows(Dataset[Any]):
    """Examples one by one, with a name that no network takes."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input": X[index], "label": int(Y[index]), "name": f"row {index}"}


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(zip(X, Y.tolist(), strict=True))


ONE: dict[str, Callable[[], Any]] = {
    "a list": lambda: [[X, Y]],
    "a named tuple": lambda: [Named(X, Y)],
    "a dataclass": lambda: [Together(X, Y)],
    "a dataclass with labels": lambda: [Labelled(torch.zeros(7), Y, X)],
    "arrays of other orders": lambda: [(X.flip(0).numpy()[::-1], Y.numpy().astype(">i4"))],
    "arrays": lambda: [(X.numpy(), Y.numpy())],
    "read-only arrays": lambda: [(np.broadcast_to(X.numpy(), X.shape), Y.numpy())],
    "unsigned labels": lambda: [(X, Y.numpy().astype(np.uint16))],
    "numbers": lambda: [(X, Y.tolist())],
    "numbers only": lambda: [(X.tolist(), Y.tolist())],
    "a mapping": lambda: [{"input": X, "labels": Y}],
    "label": lambda: [{"label": Y.numpy(), "input": X.numpy(), "idx": torch.arange(7)}],
    "a mapping of one input": lambda: [{"image": X, "targets": Y}],
    "a generator": lambda: (pair for pair in [(X[:4], Y[:4]), (X[4:], Y[4:])]),
    "a loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=3),
    "a data set": lambda: TensorDataset(X, Y),
    "a data set of mappings": Rows,
    "a stream": Stream,
    "a loader of mappings": lambda: DataLoader(Rows(), batch_size=3),
    "equal weights": lambda: [(X, Y, torch.full((7,), 2.5))],
    "weights in a list": lambda: [(X[:4], Y[:4], [1.0] * 4), (X[4:], Y[4:], [1.0] * 3)],
}
TWO: dict[str, Callable[[], Any]] = {
    "by position": lambda: [((X, SECOND), Y)],
    "in a list": lambda: [([X.numpy(), SECOND], Y)],
    "by name": lambda: [({"second": SECOND, "first": X}, Y)],
    "a mapping": lambda: [{"labels": Y, "second": SECOND, "first": X}],
    "fields": lambda: [Fields(SECOND, Y, X)],
}


class Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input)


def one() -> nn.Module:
    return seeded(lambda: Linear(4, 3))


@pytest.mark.parametrize("form", ONE)
def test_forms_of_one_input(form: str):
    got = Decomposition(one(), ONE[form]())
    wanted = Decomposition(one(), [(X, Y)])
    v = normal(got.num_parameters)
    torch.testing.assert_close(got.products(v).hessian, wanted.products(v).hessian)
    assert got.gradient().loss == pytest.approx(wanted.gradient().loss, rel=1e-12)
    assert got.gradient().num_examples == 7


@pytest.mark.parametrize("form", TWO)
def test_forms_of_several_inputs(form: str):
    model = seeded(Two)
    got = Decomposition(model, TWO[form]()).gradient().loss
    assert got == pytest.approx(F.cross_entropy(model(X, SECOND), Y).item(), rel=1e-12)


@pytest.mark.parametrize("loss", ["cross-entropy", F.cross_entropy, "one by one"])
@pytest.mark.parametrize("sizes", [(7,), (2, 5)], ids=str)
def test_weighted_examples(loss: Any, sizes: tuple[int, ...]):
    def one_by_one(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y, reduction="none")

    parts = zip(X.split(sizes), Y.split(sizes), WEIGHTS.split(sizes), strict=True)
    got = Decomposition(one(), list(parts), one_by_one if loss == "one by one" else loss)
    copies = torch.arange(7).repeat_interleave(torch.arange(7))
    wanted = Decomposition(one(), [(X[copies], Y[copies])])
    v = normal(got.num_parameters)
    assert got.gradient().loss == pytest.approx(wanted.gradient().loss, rel=1e-12)
    torch.testing.assert_close(got.products(v).hessian, wanted.products(v).hessian)


REFUSED: dict[str, tuple[Any, str]] = {
    "no targets": ([{"input": X}], "no targets.*labels"),
    "two inputs in a row": ([(X, SECOND, Y)], r"\(\(x1, x2\), y\)"),
    "weights of another length": ([(X, Y, WEIGHTS[:3])], "one weight an example"),
    "integers in third place": ([(X, Y, Y)], "one weight an example"),
    "a negative weight": ([(X, Y, -WEIGHTS)], "no weight"),
    "words": ([(X, ["a"] * 7)], "targets are no tensor"),
    "sparse inputs": ([(X.to_sparse(), Y)], r"sparse.*to_dense\(\)"),
    "a pair alone": ((X, Y), r"one batch alone is \[\(x, y\)\]"),
    "a mapping alone": ({"input": X, "labels": Y}, r"one batch alone is \[\(x, y\)\]"),
    "unknown inputs": ([{"a": X, "b": X, "labels": Y}], "by their names"),
    "targets that are not finite": ([(X, SECOND / 0)], "targets are not finite"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_no_batch(form: str):
    data, words = REFUSED[form]
    with pytest.raises(InputError, match=f"(?s){words}"):
        Decomposition(one(), data).gradient()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.uint16, torch.uint64], ids=str)
def test_labels_of_any_whole_type(dtype: torch.dtype):
    wanted = F.cross_entropy(one()(X), Y).item()
    assert Decomposition(one(), [(X, Y.to(dtype))]).gradient().loss == pytest.approx(wanted)


def test_targets_that_another_network_computes_leave_it_alone():
    teacher = seeded(lambda: nn.Linear(4, 3))
    Decomposition(one(), [(X, teacher(X))], "mse").gradient()
    assert teacher.weight.grad is None


def test_weights_of_a_mean_are_refused():
    def mean(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y)

    with pytest.raises(InputError, match="one value per example"):
        Decomposition(one(), [(X, Y, WEIGHTS)], mean).gradient()


# outputs

Pair = namedtuple("Pair", ["aux", "out"])


class Returning(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.fc, self.wrap = nn.Linear(4, 3), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.fc(x))


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], Any]] = {
    "a tuple of one": (lambda z: (z,), None),
    "an index": (lambda z: (z.sum(), z), 1),
    "a mapping with logits": (lambda z: {"hidden": 2 * z, "logits": z}, None),
    "a mapping of one": (lambda z: {"out": z}, None),
    "a name": (lambda z: {"out": z, "aux": 2 * z}, "out"),
    "a field": (lambda z: Pair(2 * z, z), "out"),
    "a function": (lambda z: [[z]], lambda result: result[0][0]),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_of_any_form(kind: str):
    wrap, output = OUTPUTS[kind]
    model = seeded(lambda: Returning(wrap))
    got = Decomposition(model, [(X, Y)], output=output).gradient().loss
    assert got == pytest.approx(F.cross_entropy(model.fc(X), Y).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (lambda z: (z, z), None),
        (lambda z: {"a": z, "b": z}, None),
        (lambda z: {"a": z, "b": z}, "c"),
        (lambda z: (z, z), 2),
        (lambda z: z, lambda _: None),
    ],
)
def test_outputs_that_are_not_told(wrap: Any, output: Any):
    with pytest.raises(InputError, match=r"output"):
        Decomposition(seeded(lambda: Returning(wrap)), [(X, Y)], output=output).gradient()


def test_a_loss_that_is_linear_in_the_outputs_is_noted():
    model = seeded(lambda: mlp(nn.Tanh, 4, 3, 3, head=nn.LogSoftmax(1)))
    dec = Decomposition(model, [(X, Y)], lambda z, y: -z[range(len(y)), y])
    dec.gradient()
    assert any("G = 0" in note for note in dec.notes)
    assert not dec.products(normal(dec.num_parameters)).gn.any()
    read = Decomposition(model, [(X, Y)], nn.NLLLoss())
    read.gradient()
    assert read.notes == ()
    v = torch.randn(dec.num_parameters, generator=generator(1), dtype=torch.float64)
    torch.testing.assert_close(dec.products(v).hessian, read.products(v).hessian)
