"""Labels drawn from the network: F = G and no NME, over all labels and within sampling errors."""

import itertools
import math

import pytest
import torch
from torch import nn

from hessdiag import Decomposition, InputError
from hessdiag.curvature.sampled_fisher import of_drawn_labels, sampled_fisher
from hessdiag.losses.named.cross_entropy import AtLogits
from tests.cases import labels, mlp, normal, seeded, split
from tests.oracles import dense

X = normal(3, 4)
V = normal(4 * 5 + 5 + 5 * 4 + 4 + 4 * 3 + 3, seed=2)


def model():
    return seeded(lambda: mlp(nn.GELU, 4, 5, 4, 3))


def test_over_all_labels_it_is_g_to_1e_10_and_their_nme_is_0(monkeypatch):
    p = model()(X).softmax(1).detach()
    truth = dense(model(), [(X, labels(3))], "cross-entropy")
    trace, product, nme = 0.0, torch.zeros_like(V), torch.zeros_like(V)
    middles = p.cumsum(1) - p / 2  # numbers that draw each label
    risk = Decomposition(model(), split(X, labels(3), 2, 1)).risk
    for y in itertools.product(range(3), repeat=3):
        chosen = iter(middles[range(3), y].split([2, 1]))
        monkeypatch.setattr(AtLogits, "draw", lambda *_, chosen=chosen: next(chosen))
        gradient, nme_product = of_drawn_labels(risk, V, torch.Generator())
        weight = math.prod(p[range(3), y].tolist())
        trace += weight * float(gradient.square().sum())
        product += weight * gradient * (gradient @ V)
        nme += weight * nme_product
    assert trace == pytest.approx(float(truth.gn.trace()), rel=1e-10)
    assert float((product - truth.gn @ V).norm() / (truth.gn @ V).norm()) < 1e-10
    assert float(nme.norm() / (truth.nme @ V).norm()) < 1e-10


def test_the_hessian_of_all_labels_is_g_and_their_nme_is_0():
    p = model()(X).softmax(1).detach()
    hessian, nme = torch.zeros_like(V), torch.zeros_like(V)
    for y in itertools.product(range(3), repeat=3):
        weight = math.prod(p[range(3), y].tolist())
        products = Decomposition(model(), [(X, torch.tensor(y))]).products(V)
        hessian += weight * products.hessian
        nme += weight * products.nme
    gn = Decomposition(model(), [(X, labels(3))]).products(V).gn
    assert float((hessian - gn).norm() / gn.norm()) < 1e-10
    assert float(nme.norm() / gn.norm()) < 1e-10


def test_sampled_it_is_g_within_its_errors():
    x, y = normal(40, 4), labels(40)
    gn = dense(model(), [(x, y)], "cross-entropy").gn
    decomposition = Decomposition(model(), split(x, y, 17, 20, 3))
    for seed in range(2):
        found = sampled_fisher(decomposition, V, num_draws=60, seed=seed)
        assert abs(found.trace.value - float(gn.trace())) < 4 * found.trace.stderr
        assert found.trace.stderr < 0.15 * float(gn.trace())
        assert abs(found.nme_trace.value) < 4 * found.nme_trace.stderr
        scores = (found.product - gn @ V)[found.stderr > 0] / found.stderr[found.stderr > 0]
        assert float(scores.abs().max()) < 5  # of 64 entries with Student's tails
        assert float(scores.abs().mean()) < 1.5


def test_the_batches_do_not_matter_and_the_seed_does():
    x, y = normal(40, 4), labels(40)
    found = [
        sampled_fisher(Decomposition(model(), batches), num_draws=3, seed=seed).trace.value
        for batches, seed in (([(x, y)], 0), (split(x, y, 1, 20, 19), 0), ([(x, y)], 1))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-10)
    assert found[0] != pytest.approx(found[2], rel=1e-3)


def test_other_likelihoods_have_a_fisher_matrix_too():
    x = normal(30, 4)
    for loss, y in (("mse", normal(30, 3, seed=1)), ("bce", (normal(30, 3, seed=1) > 0).double())):
        decomposition = Decomposition(model(), [(x, y)], loss)
        wanted = float(decomposition.operator("gn").dense().trace())
        found = sampled_fisher(decomposition, num_draws=100)
        assert abs(found.trace.value - wanted) < 4 * found.trace.stderr
        assert abs(found.nme_trace.value) < 4 * found.nme_trace.stderr


def test_what_has_no_labels_to_draw_is_refused():
    decomposition = Decomposition(model(), [(X, labels(3))])
    with pytest.raises(InputError, match="num_draws"):
        sampled_fisher(decomposition, num_draws=1)
    with pytest.raises(InputError, match="does not fit"):
        sampled_fisher(decomposition, V[:-1])
    own = Decomposition(
        model(), [(X, labels(3))], lambda z, y: (z.gather(1, y[:, None]) ** 2).mean()
    )
    with pytest.raises(InputError, match="no labels to sample"):
        sampled_fisher(own)
