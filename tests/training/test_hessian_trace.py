"""The Hessian-trace penalty by second-order Taylor mode and by three nested reverse modes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hessdiag.curvature.jet_rules import Unsupported
from hessdiag.metadata import ModelSpec
from hessdiag.nets.models import build
from hessdiag.training import task
from tests.cases import IMAGES, labels, normal
from tests.oracles import relative_error
from tests.training.test_gradients import Problem, flat, take

METHODS = ("hessian-trace", "nme-trace")
OPTIONS: dict[str, Any] = {"kappa": 0.1, "samples": 2}


class Gated(nn.Module):
    """BatchNorm before and after a softmax, which has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x))
        x = self.bn2(self.conv2(x * x.cumprod(1)))
        return self.fc(F.gelu(x).mean((2, 3)))


def named(name: str, activation: str | None = None) -> Problem:
    spec = ModelSpec(name, activation, None, 3, (3, 16, 16))
    return Problem(name, lambda: build(spec), normal(3, 3, 16, 16), labels(3))


def nested(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise Unsupported

    monkeypatch.setattr(task, "Jets", refuse)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["wrn10-1", "resnet18"])
def test_the_two_ways_agree(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = named(name)
    with monkeypatch.context() as patch:
        patch.setattr(task, "Unsupported", ())  # so that nothing falls back
        got = take(method, problem.task(kappa=0.1))
    nested(monkeypatch)
    wanted = take(method, problem.task(kappa=0.1))
    assert relative_error(flat(got.gradient), flat(wanted.gradient)) < 1e-9
    assert relative_error(flat(got.gradient), problem.step("none")) > 1e-3
    torch.testing.assert_close((got.loss, got.outputs), (wanted.loss, wanted.outputs))


@pytest.mark.parametrize("method", METHODS)
def test_a_network_without_rules_takes_the_other_way(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem("gated", Gated, IMAGES, labels(6, seed=1))
    model, other = problem.make_model(), problem.make_model()
    got = take(method, problem.task(model, **OPTIONS))
    nested(monkeypatch)
    wanted = take(method, problem.task(other, **OPTIONS))
    assert torch.equal(flat(got.gradient), flat(wanted.gradient))
    for (name, moved), once in zip(model.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(moved, once), name
    assert int(model.get_buffer("bn1.num_batches_tracked")) == 1


class Convolutions(TorchDispatchMode):
    """Count the convolutions within, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.counts["forward"] += 1
        if func is torch.ops.aten.convolution_backward.default:
            self.counts["backward"] += sum(args[-1][:2])  # of input and weight
        return func(*args, **(kwargs or {}))


def convolutions(method: str, depth: int) -> Counter[str]:
    layers = [nn.Conv2d(1, 2, 3)]
    layers += [
        layer
        for _ in range(depth)
        for layer in (nn.BatchNorm2d(2), nn.GELU(), nn.Conv2d(2, 2, 3, padding=1))
    ]
    head = (nn.Flatten(), nn.Linear(18, 3))
    problem = Problem("deep", lambda: nn.Sequential(*layers, *head), IMAGES, labels(6, seed=1))
    with Convolutions() as counter:
        take(method, problem.task(kappa=0.1))
    return counter.counts


@pytest.mark.parametrize(
    ("method", "wanted"), [("none", (1, 2)), ("hessian-trace", (5, 8)), ("nme-trace", (9, 12))]
)
def test_a_layer_costs_what_theory_counts(method: str, wanted: tuple[int, int]) -> None:
    more, fewer = convolutions(method, 3), convolutions(method, 2)
    more.subtract(fewer)
    assert (more["forward"], more["backward"]) == wanted
