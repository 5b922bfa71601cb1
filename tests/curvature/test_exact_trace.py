"""tr G without sampling, against dense truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag import Decomposition
from hessdiag.curvature.exact_trace import gn_trace
from hessdiag.curvature.jet_rules import Unsupported
from tests.cases import CASES, Case, cnn, labels, normal, seeded


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


def refused(forward: Callable[[nn.Linear, Tensor], Tensor], *sizes: int) -> str:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return forward(self.layer, x)

    data = [(normal(n, 3), labels(n, num_classes=3)) for n in sizes or (4,)]
    decomposition = Decomposition(seeded(Model).double(), data)
    with pytest.raises(Unsupported) as caught:
        gn_trace(decomposition)
    return str(caught.value)


@pytest.mark.parametrize(
    "forward",
    [
        lambda layer, x: layer(layer(x).tanh()),
        lambda layer, x: layer(x) + x @ layer.weight,
        lambda layer, x: F.linear(x, layer.weight * 2, layer.bias),
        lambda layer, x: layer(x) - layer(x).mean(0),
    ],
)
def test_what_has_no_rule_is_refused(forward: Any) -> None:
    assert refused(forward)


def test_examples_that_meet_after_a_batch_of_one_are_found_out() -> None:
    assert refused(lambda layer, x: layer(x) - layer.weight.sum() * x.mean(0), 1, 4)
