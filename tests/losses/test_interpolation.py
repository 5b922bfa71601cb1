"""float32 where the loss all but vanishes: value, c, B u, S u against float64 at the same z."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag.losses.loss_spec import LossSpec, resolve
from tests.cases import WEIGHTS, generator, labels, normal

Y = labels(6, seed=1)
ONE_HOT = F.one_hot(Y, 3).double()
LOSSES: dict[str, tuple[LossSpec, Tensor]] = {
    "cross-entropy": ("cross-entropy", Y),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHTS), Y),
    "ignored labels": ("cross-entropy", Y.where(torch.arange(6) > 1, -100)),
    "probabilities": ("cross-entropy", ONE_HOT),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), Y),
    "bce": ("bce", ONE_HOT),
    "bce with weights": (nn.BCEWithLogitsLoss(pos_weight=WEIGHTS), ONE_HOT),
    "kl": ("kl", ONE_HOT),
}


def logits(margin: float) -> Tensor:
    """Right by ``margin`` in every class, and off by less than 1 at random."""
    return (normal(6, 3, seed=2) + margin * (2 * ONE_HOT - 1)).float()


@pytest.mark.parametrize("margin", [0.0, 4.0, 9.0, 16.0, 30.0])
@pytest.mark.parametrize("name", LOSSES)
def test_nothing_cancels_at_the_output(name: str, margin: float):
    loss, y = LOSSES[name]
    z, u = logits(margin), normal(6, 3, seed=3)
    low, high = resolve(loss).at(z, y), resolve(loss).at(z.double(), y)
    assert float(low.total) == pytest.approx(float(high.total), rel=1e-5)
    for got, wanted in (
        (low.cotangent, high.cotangent),
        (low.hessian(u.float()), high.hessian(u)),
        (low.factor(u.float()), high.factor(u)),
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=0)


@pytest.mark.parametrize("margin", [9.0, 30.0, 50.0])
def test_the_closed_form_in_many_digits(margin: float):
    """ℓ, c and B u of two classes through σ(−margin), whose digits float64 keeps."""
    z, y = torch.tensor([[margin, 0.0]]), torch.tensor([0])
    at, rare = resolve("cross-entropy").at(z, y), torch.tensor(-margin).double().sigmoid().item()
    assert float(at.total) == pytest.approx(rare, rel=1e-3)
    torch.testing.assert_close(at.cotangent, torch.tensor([[-rare, rare]]), rtol=1e-5, atol=0)
    product = at.hessian(torch.tensor([[1.0, 3.0]]))
    torch.testing.assert_close(product, 2 * torch.tensor([[-rare, rare]]), rtol=1e-3, atol=0)


def test_sampled_labels_far_from_the_middle():
    """c_ŷ is −Σ_{k≠ŷ} p_k, also for a ŷ that is all but certain."""
    z = logits(30.0)
    low, high = resolve("cross-entropy").at(z, Y), resolve("cross-entropy").at(z.double(), Y)
    drawn = torch.full((6,), 0.5)
    torch.testing.assert_close(
        low.sampled_cotangent(drawn).double(), high.sampled_cotangent(drawn), rtol=1e-4, atol=0
    )
    assert bool((low.sampled_cotangent(drawn) != 0).all())


def test_a_uniform_draw_of_zero_does_not_choose_an_impossible_class():
    at = resolve("cross-entropy").at(torch.tensor([[-40.0, 20.0, 0.0]]), torch.tensor([1]))
    assert at.sampled_cotangent(torch.zeros(1)).argmin() == 1


@pytest.mark.parametrize("places", list(itertools.permutations(range(3), 2)), ids=str)
@pytest.mark.parametrize("chance", [1e-3, 1e-9, 1e-12])
def test_a_rare_class_keeps_its_chance_wherever_it_stands(places: tuple[int, int], chance: float):
    """In float32, where 1 − 1e-9 is 1: so many of the uniform numbers choose it."""
    rare, likely = places
    z = torch.full((1, 3), -1e4)
    z[0, likely], z[0, rare] = 7.0, 7.0 + math.log(chance)
    at = resolve("cross-entropy").at(z, torch.tensor([likely]))
    for share, wanted in ((0.01, rare), (0.95, rare), (1.05, likely), (0.9 / chance, likely)):
        drawn = torch.tensor([share * chance], dtype=torch.float64)
        drawn = drawn if rare < likely else 1 - drawn
        assert at.sampled_cotangent(drawn).argmin() == wanted
    assert at.draw(1, generator(0)).dtype == torch.float64
