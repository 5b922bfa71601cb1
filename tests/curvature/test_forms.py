"""Forms without products against dense matrices, and probes of one example each."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag.curvature import jet_rules
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.example_signs import Signed
from hessdiag.curvature.forms import FEW, check_forms, find_signs, quadratic_forms
from hessdiag.curvature.jet_rules import Unsupported
from hessdiag.parts import PARTS
from tests.cases import (
    BY_NAME,
    CASES,
    VECTORS,
    Case,
    Doubled,
    generator,
    labels,
    mlp,
    normal,
    seeded,
    split,
)
from tests.oracles import Dense, dense, truth_of
from tests.together import together

F64 = torch.float64
TOLERANCE = 1e-12


class Tokens(nn.Module):
    """Embedding, normalisation by layer, channels scaled, read out by the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 3)
        self.places = nn.Parameter(torch.randn(1, 5, 3))
        self.norm = nn.LayerNorm(3)
        self.mix = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.randn(3))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.places
        x = x + self.scale * torch.tanh(self.mix(self.norm(x)))
        return F.linear(x.mean(1), self.embedding.weight)


class Groups(nn.Module):
    """Convolutions in groups and in one dimension, one layer met twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(2, 4, 2)
        self.conv2 = nn.Conv1d(4, 4, 2, groups=2, padding=1)
        self.conv3 = nn.Conv1d(4, 4, 1, groups=4, bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv2(F.silu(self.conv1(x))))
        return self.head(self.conv3(F.silu(self.conv3(x))).mean(2))


class Flattened(nn.Module):
    """Layers that see ``(N t, …)``, the second with its weight transposed, as GPT-2's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight = nn.Linear(2, 4), nn.Parameter(torch.randn(4, 3))
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x.reshape(-1, 2)))
        return torch.addmm(self.bias, y, self.weight).tanh().view(len(x), -1, 3).mean(1) + (
            y.view(len(x), -1, 4).mean(1) @ self.weight
        )


class Encoder(nn.Module):
    """A layer of torch's own, time first, and one with the examples first."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 4)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(4, 2, 5, activation="gelu", batch_first=first)
            for first in (False, True)
        )
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.layers[0](self.embedding(tokens.mT))
        return self.head(self.layers[1](x.transpose(0, 1)).mean(1))


class OfTwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.left(a).tanh() * self.right(b)


def of_tokens() -> list[tuple[Tensor, Tensor]]:
    return split(labels(6, 5, num_classes=4), labels(6, num_classes=4), 3, 1, 2)


SIGNED = [
    *CASES,
    Case("tokens", Tokens, of_tokens()),
    Case("flattened", Flattened, split(normal(5, 6), labels(5), 2, 3)),
    Case("encoder", Encoder, split(labels(5, 3, num_classes=4), labels(5), 2, 3)),
    Case("groups", Groups, split(normal(5, 2, 4), labels(5), 2, 3)),
]
SHARED = {"shared": {"readout"}, "tokens": {"places"}}
"""Parameters that are used otherwise than as a layer's weight or bias."""


def signs_of(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.randint(2, (count, size), generator=generator(seed)).to(F64) * 2 - 1


def form(matrix: Tensor, rows: Tensor) -> np.ndarray:
    return torch.einsum("ki,ij,kj->k", rows, matrix, rows).numpy()


def assert_forms(found: dict[str, np.ndarray], truth: Dense, rows: Tensor) -> None:
    wanted = {part: form(getattr(truth, part), rows) for part in PARTS}
    scale = max(np.abs(values).max() for values in wanted.values())
    for part in PARTS:
        np.testing.assert_allclose(found[part], wanted[part], rtol=0, atol=TOLERANCE * scale)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forms_are_those_of_the_matrices(case: Case) -> None:
    decomposition = Decomposition(*case)
    rows = torch.randn(3, decomposition.layout.size, generator=generator(1), dtype=F64)
    assert_forms(quadratic_forms(decomposition, rows), truth_of(case.name), rows)


@pytest.mark.parametrize("name", ["cnn-gelu-bn"])
def test_forms_by_the_statistics_of_the_batch(name: str) -> None:
    model, batches, loss = BY_NAME[name]
    decomposition = Decomposition(model, batches[:1], loss, bn="batch")
    rows = torch.randn(2, decomposition.layout.size, generator=generator(1), dtype=F64)
    truth = dense(model, batches[:1], loss, bn="batch")
    assert_forms(quadratic_forms(decomposition, rows), truth, rows)
    with pytest.raises(Unsupported, match="examples meet"):
        find_signs(decomposition, 0)


def vectors_of(decomposition: Decomposition, rows: Tensor, number: int, seed: int) -> Tensor:
    """Make the tangents of one example by hand."""
    signs = find_signs(decomposition, seed)
    drawn = signs.draw([number], rows)
    made: list[Tensor] = []
    for row in rows:
        tangents = signs.tangents(decomposition.layout.unflatten(row), drawn)
        made.append(
            torch.cat([(t.of(0) if isinstance(t, Signed) else t).flatten() for t in tangents])
        )
    return torch.stack(made)


@pytest.mark.parametrize("case", SIGNED, ids=str)
def test_each_example_has_tangents_of_its_own(case: Case) -> None:
    """The forms are means of ``v_nᵀA_n v_n``, A_n the matrix of the loss of example n alone."""
    model, batches, loss = case
    decomposition = Decomposition(model, batches, loss)
    signs = find_signs(decomposition, 3)
    assert {decomposition.layout.names[i] for i in signs.shared} == SHARED.get(case.name, set())
    rows = signs_of(2, decomposition.layout.size)
    found = quadratic_forms(decomposition, rows, signs)
    examples = [(x[n : n + 1], y[n : n + 1]) for x, y in batches for n in range(len(y))]
    risk = decomposition.risk
    weights = np.array([risk.loss.at(risk.outputs(x).detach(), y).weight for x, y in examples])
    wanted = {part: np.zeros(2) for part in PARTS}
    for number, (example, weight) in enumerate(zip(examples, weights, strict=True)):
        if weight == 0:
            continue
        truth, own = dense(model, [example], loss), vectors_of(decomposition, rows, number, 3)
        for part in PARTS:
            wanted[part] += weight / weights.sum() * form(getattr(truth, part), own)
    scale = max(np.abs(values).max() for values in wanted.values())
    for part in PARTS:
        np.testing.assert_allclose(found[part], wanted[part], rtol=0, atol=1e-11 * scale)


def test_all_sign_patterns_average_to_the_traces() -> None:
    model, batches = mlp(nn.GELU, 1, 2, 2).double(), [(normal(5, 1), labels(5, num_classes=2))]
    decomposition = Decomposition(model, batches)
    rows = torch.tensor(list(product((-1.0, 1.0), repeat=decomposition.layout.size)), dtype=F64)
    truth = dense(model, batches, "cross-entropy")
    found = quadratic_forms(decomposition, rows, find_signs(decomposition, 0))
    for part in PARTS:
        trace = float(getattr(truth, part).trace())
        assert found[part].mean() == pytest.approx(trace, abs=1e-12)


def test_forms_do_not_depend_on_the_microbatches_nor_on_each_other() -> None:
    model, (x, y) = mlp(nn.GELU, 4, 5, 3).double(), (VECTORS, labels(9))
    rows = signs_of(3, 43)
    found: list[dict[str, np.ndarray]] = []
    for sizes in ((9,), (4, 4, 1), (1,) * 9):
        decomposition = Decomposition(model, split(x, y, *sizes))
        found.append(quadratic_forms(decomposition, rows, find_signs(decomposition, 0)))
    for other in found[1:]:
        for part in PARTS:
            np.testing.assert_allclose(other[part], found[0][part], rtol=1e-12)
    decomposition = Decomposition(model, split(x, y, 4, 4, 1))
    signs = find_signs(decomposition, 0)
    alone = quadratic_forms(decomposition, rows[1:2], signs)
    few = quadratic_forms(decomposition, rows, signs, num_examples=6)
    first = Decomposition(model, split(x[:6], y[:6], 6))
    wanted = quadratic_forms(first, rows, signs)
    for part in PARTS:
        assert alone[part][0] == found[1][part][1]
        np.testing.assert_allclose(few[part], wanted[part], rtol=1e-12)


def test_the_signs_reduce_the_variance_of_gauss_newton() -> None:
    model, x = seeded(lambda: mlp(nn.GELU, 8, 16, 4)), normal(64, 8)
    decomposition = Decomposition(model, [(x, labels(64, num_classes=4))])
    rows = signs_of(64, decomposition.layout.size)
    signed = quadratic_forms(decomposition, rows, find_signs(decomposition, 0))
    shared = quadratic_forms(decomposition, rows)
    assert 3 * signed["gn"].var() < shared["gn"].var()


def test_inputs_by_name_and_batches_of_one() -> None:
    a, b, y = normal(4, 4), normal(4, 4, seed=9), labels(4)
    batches = [({"a": a[n : n + 1], "b": b[n : n + 1]}, y[n : n + 1]) for n in range(4)]
    model, rows = OfTwoInputs().double(), signs_of(2, 30)
    one, all_ = (Decomposition(model, each) for each in (batches, [({"a": a, "b": b}, y)]))
    found, wanted = (quadratic_forms(d, rows, find_signs(d, 0)) for d in (one, all_))
    np.testing.assert_allclose(found["nme"], wanted["nme"], rtol=1e-12)


class Centred(nn.Module):
    """Examples meet in a mean over them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return self.second(x - x.mean(0, keepdim=True))


class TimeFirst(nn.Module):
    """As many steps of time come first as examples are thought to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.arange(FEW).view(-1, 1, 1)
        return self.second(torch.tanh(self.first(x)).sum(0))


class Crowd(Centred):
    """Examples meet where more than two are together."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if len(x) > 2 else self.second(torch.tanh(self.first(x)))


class Flipped(nn.Module):
    """Examples change their order within."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        order = torch.arange(len(x) - 1, -1, -1)
        return self.second(torch.tanh(self.first(x))[order])[order]


@pytest.mark.parametrize("build", [Centred, TimeFirst, Crowd, Flipped])
@pytest.mark.parametrize("size", [1, 4])
def test_examples_that_meet_have_no_tangents_of_their_own(
    build: Callable[[], nn.Module], size: int
) -> None:
    decomposition = Decomposition(
        build().double(), split(normal(8, 4), labels(8), *(size,) * (8 // size))
    )
    with pytest.raises(Unsupported, match="examples that meet"):
        find_signs(decomposition, 0)


class Hidden(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return Doubled.apply(super().forward(x))


def test_what_has_no_rule_is_unsupported() -> None:
    decomposition = Decomposition(Hidden(4, 3).double(), [(VECTORS, labels(9))])
    with pytest.raises(Unsupported):
        quadratic_forms(decomposition, torch.zeros(1, 15, dtype=F64))


def test_a_rule_that_is_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    decomposition = Decomposition(*BY_NAME["causal-attention"])
    check_forms(decomposition, 0)
    monkeypatch.setitem(jet_rules._RULES, "softmax", lambda _, x, *__: (x.first, None))
    with pytest.raises(Unsupported, match="differ"):
        check_forms(decomposition, 0)


class Moody(nn.Module):
    """Uses a weight by itself where an input is large."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.fc.weight * 2 if x.max() > 10 else self.fc.weight
        return torch.tanh(F.linear(x, weight, self.fc.bias))


def test_a_weight_used_otherwise_later_is_no_silent_error() -> None:
    x, y = normal(4, 4), labels(4)
    x[3] = 20.0
    decomposition = Decomposition(Moody().double(), split(x, y, 2, 2))
    signs, rows = find_signs(decomposition, 0), signs_of(1, 15)
    with pytest.raises(Unsupported, match="in one batch otherwise"):
        quadratic_forms(decomposition, rows, signs)


def test_a_padding_token_is_a_constant_where_it_comes_later() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.last = nn.Embedding(4, 3, padding_idx=0), nn.Linear(3, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.last(torch.tanh(self.embedding(tokens).sum(1)))

    model = seeded(Padded)
    tokens = torch.tensor([[1, 2], [3, 1], [0, 0], [0, 1], [2, 0]])
    dec = Decomposition(model, [(tokens, labels(5))])
    rows = normal(2, dec.num_parameters).sign()
    check_forms(dec, 0)
    products = dec.products(rows)
    for part, values in quadratic_forms(dec, rows).items():
        wanted = (rows * getattr(products, part)).sum(1)
        np.testing.assert_allclose(values, wanted.numpy(), rtol=1e-10)


def test_no_graph_is_kept_and_the_inputs_stay() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)).double()
    x = VECTORS.clone()
    decomposition = Decomposition(model, [(x, labels(9))])
    rows = signs_of(1, 15).expand(2, -1)
    found = quadratic_forms(decomposition, rows)
    assert found["gn"][0] == found["gn"][1]
    assert torch.equal(x, VECTORS)


def in_a_process(wanted: dict[str, list[float]]) -> None:
    model, batches, loss = BY_NAME["cnn-gelu-bn"]
    decomposition = Decomposition(model, batches, loss)
    found = quadratic_forms(
        decomposition, signs_of(2, decomposition.layout.size), find_signs(decomposition, 0)
    )
    for part, values in wanted.items():
        np.testing.assert_allclose(found[part], values, rtol=1e-12)


@pytest.mark.slow
def test_several_processes_find_the_same() -> None:
    decomposition = Decomposition(*BY_NAME["cnn-gelu-bn"])
    rows = signs_of(2, decomposition.layout.size)
    found = quadratic_forms(decomposition, rows, find_signs(decomposition, 0))
    together(in_a_process, 2, {part: values.tolist() for part, values in found.items()})
