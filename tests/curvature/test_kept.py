"""Linearisations kept between passes: the same products, and no staler than fresh ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from hessdiag import Decomposition, InputError
from hessdiag.curvature import kept
from hessdiag.curvature.linearisation import Linearisation
from tests.cases import labels, normal, seeded


class Data:
    """Three microbatches of four, in one buffer that the next one overwrites."""

    def __init__(self) -> None:
        self.x, self.y = normal(12, 3), labels(12, num_classes=2)
        self.buffer = torch.empty(4, 3, dtype=torch.float64)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in zip(self.x.split(4), self.y.split(4), strict=True):
            yield self.buffer.copy_(x), y


def network() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))).double()


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many examples each linearisation that was made has."""
    sizes: list[int] = []

    def counted(*args: object, **kwargs: bool) -> Linearisation:
        sizes.append(len(args[2]))  # pyright: ignore[reportArgumentType]
        return Linearisation(*args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(kept, "Linearisation", counted)
    return sizes


@pytest.mark.parametrize(("room", "once"), [(0, 0), (3, 0), (7, 1), (8, 2), (99, 3)])
def test_as_many_as_have_room_are_made_once(built: list[int], room: int, once: int) -> None:
    fresh, keeping = Decomposition(network(), Data()), Decomposition(network(), Data())
    keeping.kept.num_examples = room
    for seed in range(3):
        v = normal(2, fresh.num_parameters, seed=seed)
        built.clear()
        found = keeping.products(v)
        assert len(built) == 3 - (once if seed else 0)
        for part, wanted in vars(fresh.products(v)).items():
            assert torch.equal(getattr(found, part), wanted)


def test_changed_data_are_refused_as_ever() -> None:
    data = Data()
    decomposition = Decomposition(network(), data)
    decomposition.kept.num_examples = 99
    v = normal(1, decomposition.num_parameters)
    decomposition.products(v)
    data.y[0] = 1 - data.y[0]
    with pytest.raises(InputError, match="changed between two passes"):
        decomposition.products(v)
    data.y[0] = 1 - data.y[0]
    data.x[5] += 1
    with pytest.raises(InputError, match="changed between two passes"):
        decomposition.products(v)


def test_a_changed_network_is_refused_as_ever() -> None:
    model = network()
    decomposition = Decomposition(model, Data())
    decomposition.kept.num_examples = 99
    v = normal(1, decomposition.num_parameters)
    decomposition.products(v)
    with torch.no_grad():
        next(iter(decomposition.risk.parameters.values())).add_(1)
    with pytest.raises(InputError, match="changed between two passes"):
        decomposition.products(v)


def test_displaced_and_wider_ones_keep_their_own() -> None:
    decomposition = Decomposition(network().float(), Data())
    decomposition.kept.num_examples = 99
    v = normal(1, decomposition.num_parameters)
    decomposition.products(v)
    step = torch.ones(decomposition.num_parameters)
    moved = decomposition.displaced(step).products(v).hessian
    wide = decomposition.in_type(torch.float64).products(v).hessian
    near = decomposition.products(v).hessian
    assert moved is not None
    assert wide is not None
    assert near is not None
    assert torch.allclose(wide, near.double(), atol=1e-6)
    assert not torch.allclose(moved, near, atol=1e-4)
