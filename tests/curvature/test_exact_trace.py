"""tr G without sampling, against dense truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag import Decomposition
from hessdiag.curvature import exact_trace
from hessdiag.curvature.exact_trace import find_plan, gn_trace, output_forms
from hessdiag.curvature.forms import FEW
from hessdiag.curvature.jet_rules import Unsupported
from hessdiag.linalg.space import signs
from hessdiag.seeds import stream
from tests.cases import CASES, Case, Doubled, cnn, labels, normal, seeded, split

Data = Sequence[tuple[Tensor, Tensor]]


def dense(decomposition: Decomposition) -> float:
    return float(decomposition.operator("gn").dense().trace())


class Sequence(nn.Module):
    """Ids, layers that meet (N, t, …), and channels that come last."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 6, padding_idx=2)
        self.norm, self.qkv, self.last = nn.LayerNorm(6), nn.Linear(6, 18), nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return self.last((x + torch.softmax(q @ k.mT, -1) @ v).mean(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: seeded(lambda: cnn(nn.GELU)).eval(),
    "group norm": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, bias=False),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(36, 3),
    ),
    "grouped, dilated": lambda: nn.Sequential(
        nn.Conv2d(1, 4, (3, 2), (2, 1), (1, 2)),
        nn.Tanh(),
        nn.Conv2d(4, 6, 2, dilation=2, groups=2),
        nn.Flatten(),
        nn.Linear(108, 3),
    ),
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(3, 3, 3, groups=3),
        nn.Flatten(),
        nn.Linear(108, 2),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_images(name: str) -> None:
    model = seeded(NETWORKS[name]).double()
    data = [(normal(3, 1, 8, 8, seed=i), labels(3, num_classes=2)) for i in range(2)]
    decomposition = Decomposition(model, data)
    assert gn_trace(decomposition) == pytest.approx(dense(decomposition), rel=1e-9)


@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
def test_sequences(loss: str) -> None:
    ids = torch.tensor([[0, 1, 1, 4, 2], [3, 3, 3, 0, 2], [1, 2, 2, 2, 2]])
    y = normal(3, 3) if loss == "mse" else labels(3, num_classes=3)
    decomposition = Decomposition(seeded(Sequence).double(), [(ids, y)], loss)
    assert gn_trace(decomposition) == pytest.approx(dense(decomposition), rel=1e-9)


class Language(nn.Module):
    """Positions of their own, a head tied to the embedding, a layer as GPT-2's."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(7, 4), nn.Embedding(9, 4)
        self.weight, self.bias = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))
        self.heads = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1])[None])
        x = x + torch.addmm(self.bias, x.view(-1, 4), self.weight).view_as(x).tanh()
        x = x + self.heads(x, x, x, need_weights=False)[0]
        return F.linear(x, self.words.weight)


class Odd(nn.Module):
    """Time first, a normalised weight, a token of its own, channels scaled, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 2, bias=False)
        self.token, self.gain = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.rand(4))
        self.layer = nn.TransformerEncoderLayer(4, 2, 5, batch_first=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.conv.weight / self.conv.weight.norm(dim=(1, 2), keepdim=True)
        x = F.relu(F.conv1d(x, kernel), inplace=True).mT * (1 + self.gain)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.head(self.layer(x.transpose(0, 1)).sum(0))


def of_tokens(size: int) -> Data:
    return [
        (labels(n, size, num_classes=7), labels(n, size, num_classes=7, seed=1)) for n in (3, 5)
    ]


MORE: dict[str, tuple[Callable[[], nn.Module], Data]] = {
    "language": (Language, of_tokens(4)),
    "language, as long as its batch": (Language, of_tokens(5)),
    "odd": (Odd, split(normal(9, 2, 4), labels(9), 2, 4, 3)),
    **{
        case.name: (case.build, case.batches)
        for case in CASES
        if case.name in ("attention", "residual")
    },
}


@pytest.mark.parametrize("name", MORE)
def test_draws_at_the_outputs_are_the_squared_norms_of_each_example(name: str) -> None:
    """And all of them average to tr G, as the signs e_k of a draw are independent."""
    build, data = MORE[name]
    decomposition = Decomposition(seeded(build).double().eval(), data)
    found = output_forms(decomposition, [0, 3], 7, find_plan(decomposition))
    few = output_forms(decomposition, [3], 7, find_plan(decomposition), num_examples=4)
    risk = decomposition.risk
    wanted, total, number = torch.zeros(2, dtype=torch.float64), 0.0, 0
    for x, y in data:
        for n in range(len(y)):
            z = risk.outputs(x[n : n + 1])
            at = risk.loss.at(z.detach(), y[n : n + 1])
            for i, draw in enumerate((0, 3)):
                drawn = torch.Generator().manual_seed(stream(7, "outputs", draw, number))
                u = at.factor(signs(z.numel(), drawn).view_as(z).double())
                parts = torch.autograd.grad(z, list(risk.parameters.values()), u, retain_graph=True)
                wanted[i] += sum(part.square().sum() for part in parts)
            total, number = total + at.weight, number + 1
            if number == 4:
                assert few[0] == pytest.approx(float(wanted[1] / total), rel=1e-10)
    assert found == pytest.approx((wanted / total).tolist(), rel=1e-10)


def test_all_signs_at_the_outputs_average_to_tr_g() -> None:
    """By enumeration: of one example with two tokens of two classes each."""
    model = seeded(lambda: nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 3))).double()
    data = [(normal(1, 2, 2), labels(1, 2))]
    decomposition = Decomposition(model, data)
    patterns = list(product((-1, 1), repeat=6))
    drawn = iter(patterns)

    def next_signs(count: int, _: torch.Generator) -> Tensor:
        return torch.tensor(next(drawn), dtype=torch.int8)[:count]

    plan = find_plan(decomposition)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_trace, "signs", next_signs)
        found = output_forms(decomposition, range(64), 0, plan)
    assert found.mean() == pytest.approx(dense(decomposition), rel=1e-10)


EXACT = {"mlp-gelu"}  # and whatever else has layers with a rule


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_dense_truth_or_says_why_not(case: Case) -> None:
    decomposition = Decomposition(*case)  # pyright: ignore[reportArgumentType]
    try:
        trace = gn_trace(decomposition)
    except Unsupported:
        assert case.name not in EXACT
        return
    assert trace == pytest.approx(dense(decomposition), rel=1e-9)


class Layer(nn.Module):
    def __init__(self, forward: Callable[[nn.Linear, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(3, 3), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer, x)


def of_layer(forward: Callable[[nn.Linear, Tensor], Tensor], *sizes: int) -> Decomposition:
    data = [(normal(n, 3), labels(n, num_classes=3)) for n in sizes]
    return Decomposition(seeded(lambda: Layer(forward)).double(), data)


@pytest.mark.parametrize(
    "forward",
    [
        lambda layer, x: layer(layer(x).tanh()),
        lambda layer, x: layer(x) + x @ layer.weight,
        lambda layer, x: F.linear(x, layer.weight * 2, layer.bias),
        lambda layer, x: F.linear(x, layer.weight.T) + layer(x),
        lambda layer, x: F.linear(x, (layer.weight.triu() + layer.weight[:2].exp().sum(0)).T),
        lambda layer, x: (x.repeat_interleave(2, 0) * layer.bias).view(-1, 6)[:, 1:4].exp(),
        lambda layer, x: (layer(x)[None] * layer.weight[:, None]).tanh().prod(0),
        lambda layer, x: torch.einsum("ni,oi->no", x, layer.weight).tanh() * layer.bias.exp(),
        lambda layer, x: F.linear(x, layer.weight.tanh() @ layer.weight, layer.bias),
    ],
)
def test_other_uses_of_a_parameter(forward: Any) -> None:
    decomposition = of_layer(forward, 4)
    assert gn_trace(decomposition) == pytest.approx(dense(decomposition), rel=1e-9)


@pytest.mark.parametrize(
    "forward",
    [
        lambda layer, x: layer(x) - layer(x).mean(0),
        lambda layer, x: layer(x).sin().mul_(layer.bias),
        lambda layer, x: torch.where(x[:, :1] > 0, layer(x), x) + Doubled.apply(layer.weight)[0],
    ],
)
@pytest.mark.parametrize("sizes", [(4,), (1, 4)])
def test_what_is_not_known_is_refused(forward: Any, sizes: tuple[int, ...]) -> None:
    with pytest.raises(Unsupported):
        gn_trace(of_layer(forward, *sizes))


def test_a_batch_that_does_otherwise_is_refused() -> None:
    def forward(layer: nn.Linear, x: Tensor) -> Tensor:
        return layer(x) if len(x) < FEW + 1 else layer(x) * (layer.bias + 1)

    with pytest.raises(Unsupported, match="in one batch otherwise"):
        gn_trace(of_layer(forward, 2, FEW + 1))


def test_examples_that_meet_where_more_than_two_are_together_are_refused() -> None:
    def forward(layer: nn.Linear, x: Tensor) -> Tensor:
        z = layer(x)
        return z - z.mean(0) if len(x) > 2 else z

    with pytest.raises(Unsupported):
        gn_trace(of_layer(forward, 8))


def test_two_of_something_else_are_no_two_examples() -> None:
    def forward(layer: nn.Linear, x: Tensor) -> Tensor:
        return layer(x) + (x[:, :1] > 0) * (layer.weight[:2] * torch.ones(2, 3)).sum(0)

    x = normal(8, 3)
    x[:2, 0], x[2:, 0] = -1, 1  # the first two examples know nothing of it
    model = seeded(lambda: Layer(forward)).double()
    decomposition = Decomposition(model, [(x, labels(8, num_classes=3))])
    assert gn_trace(decomposition) == pytest.approx(dense(decomposition), rel=1e-9)
