"""Each loss against torch's own: value, cotangent, output Hessian, its factor, sampled labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag.curvature.decomposition import PARTS, Decomposition
from hessdiag.errors import InputError
from hessdiag.loss_names import NAMES
from hessdiag.losses.loss_spec import LossSpec, named, resolve
from hessdiag.losses.named.cross_entropy import CrossEntropy
from tests.cases import WEIGHTS, generator, labels, mlp, normal, seeded, split
from tests.oracles import dense, hessian, relative_error

Z, Y = normal(7, 3, seed=1), labels(7, seed=1)
LONG, LONG_Y = normal(4, 3, 5, seed=2), labels(4, 5, seed=2)
SOFT, IGNORED = normal(7, 3, seed=3).softmax(1), Y.where(torch.arange(7) % 3 > 0, -100)
BITS, COUNTS = labels(7, 3, num_classes=2, seed=4).double(), labels(7, 3, num_classes=5, seed=4)


@dataclass(frozen=True)
class Known:
    """A loss, torch's function of the same mean, outputs and targets."""

    loss: LossSpec
    torch_loss: Callable[[Tensor, Tensor], Tensor]
    z: Tensor
    y: Tensor


def divergence(z: Tensor, y: Tensor) -> Tensor:
    return F.kl_div(z.log_softmax(1), y, reduction="batchmean")


LOG = Z.log_softmax(1)
KNOWN = {
    "cross-entropy": Known("cross-entropy", F.cross_entropy, Z, Y),
    "ignored labels": Known("cross-entropy", F.cross_entropy, Z, IGNORED),
    "probabilities": Known("cross-entropy", F.cross_entropy, Z, SOFT),
    "classes on dimension 1": Known("cross-entropy", F.cross_entropy, LONG, LONG_Y),
    "classes on the last": Known(
        "cross-entropy", lambda z, y: F.cross_entropy(z.mT, y), LONG.mT.contiguous(), LONG_Y
    ),
    "smoothing and weights": Known(
        nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.3),
        nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.3),
        Z,
        IGNORED,
    ),
    "weights and probabilities": Known(
        partial(F.cross_entropy, weight=WEIGHTS), partial(F.cross_entropy, weight=WEIGHTS), Z, SOFT
    ),
    "mse": Known("mse", F.mse_loss, Z, SOFT),
    "mse of numbers": Known(
        "mse", lambda z, y: F.mse_loss(z[:, 0], y.double()), Z[:, :1], COUNTS[:, 0]
    ),
    "mse of a flat output": Known("mse", F.mse_loss, Z[:, 0], SOFT[:, 0]),
    "mse of images": Known(F.mse_loss, F.mse_loss, LONG, LONG.sin()),
    "bce": Known("bce", F.binary_cross_entropy_with_logits, Z, BITS),
    "bce of probabilities": Known("bce", F.binary_cross_entropy_with_logits, Z, SOFT),
    "bce of one output": Known(
        "bce",
        lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y.double()),
        Z[:, :1],
        BITS[:, 0].long(),
    ),
    "bce with weights": Known(
        nn.BCEWithLogitsLoss(pos_weight=WEIGHTS), nn.BCEWithLogitsLoss(pos_weight=WEIGHTS), Z, BITS
    ),
    "huber": Known("huber", F.huber_loss, 2 * Z, SOFT),
    "huber with δ": Known(nn.HuberLoss(delta=0.3), nn.HuberLoss(delta=0.3), Z, SOFT),
    "poisson": Known("poisson", F.poisson_nll_loss, Z, COUNTS.double()),
    "nll": Known("nll", lambda z, y: F.nll_loss(z.log_softmax(1), y), LOG, Y),
    "nll with weights": Known(
        nn.NLLLoss(weight=WEIGHTS),
        lambda z, y: F.nll_loss(z.log_softmax(1), y, weight=WEIGHTS),
        LOG,
        IGNORED,
    ),
    "kl": Known("kl", divergence, Z, SOFT),
    "kl by module": Known(nn.KLDivLoss(reduction="batchmean"), divergence, LOG, SOFT),
    "kl over classes too": Known(F.kl_div, lambda z, y: divergence(z, y) / 3, LOG, SOFT),
    "kl of logarithms": Known(
        nn.KLDivLoss(reduction="batchmean", log_target=True),
        lambda z, y: divergence(z, y.exp()),
        LOG,
        SOFT.log(),
    ),
}
each = pytest.mark.parametrize("name", KNOWN)


def rows(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Apply a linear function to every unit vector of z's shape, (n, n)."""
    units = torch.eye(z.numel(), dtype=z.dtype).view(-1, *z.shape)
    return torch.stack([function(u).flatten() for u in units])


@each
def test_value_cotangent_and_output_hessian_are_those_of_torch(name: str):
    case = KNOWN[name]
    at = resolve(case.loss).at(case.z, case.y)
    z = case.z.clone().requires_grad_()
    value = case.torch_loss(z, case.y)
    (slope,) = torch.autograd.grad(value, z)
    assert float(at.total) / at.weight == pytest.approx(value.item(), rel=1e-13)
    assert relative_error(at.cotangent / at.weight, slope) < 1e-13
    b = hessian(lambda z: case.torch_loss(z.view_as(case.z), case.y), case.z.flatten())
    assert relative_error(rows(at.hessian, case.z) / at.weight, b) < 1e-13


@each
def test_autograd_of_the_total_agrees_with_the_closed_forms(name: str):
    case = KNOWN[name]
    z = case.z.clone().requires_grad_()
    at = resolve(case.loss).at(z, case.y)
    (c,) = torch.autograd.grad(at.total, z, create_graph=True)
    torch.testing.assert_close(c, at.cotangent, rtol=1e-13, atol=1e-15)
    u = normal(*z.shape, seed=9)
    for slope in (c, at.cotangent):  # the cotangent's own derivative is B too
        (product,) = torch.autograd.grad(slope, z, u, retain_graph=True)
        torch.testing.assert_close(product, at.hessian(u), rtol=1e-12, atol=1e-15)


@each
def test_the_factor_squares_to_the_output_hessian(name: str):
    case = KNOWN[name]
    at = resolve(case.loss).at(case.z, case.y)
    s = rows(at.factor, case.z)
    assert relative_error(s.T @ s, rows(at.hessian, case.z)) < 1e-13


@each
def test_sampled_labels_have_mean_zero_and_covariance_b(name: str):
    case, count = KNOWN[name], 4000
    at, draws = resolve(case.loss).at(case.z, case.y), generator(5)
    c = torch.stack([at.sampled_cotangent(at.draw(len(case.z), draws)) for _ in range(count)])
    c = c.flatten(1)
    outer = c[:, :, None] * c[:, None, :]
    for samples, wanted in ((c, 0 * c[0]), (outer, rows(at.hessian, case.z))):
        error = (samples.mean(0) - wanted).abs()
        assert bool((error <= 4.5 * samples.std(0) / count**0.5).all())


@each
def test_weights_of_examples_count_like_copies(name: str):
    case = KNOWN[name]
    copies = torch.arange(len(case.z)) % 3
    loss = resolve(case.loss)
    whole = loss.at(case.z.repeat_interleave(copies, 0), case.y.repeat_interleave(copies, 0))
    weighted = loss.at(case.z, case.y, copies.double())
    assert weighted.weight == pytest.approx(whole.weight)
    assert float(weighted.total) == pytest.approx(float(whole.total), rel=1e-13)
    single = loss.at(case.z, case.y)
    by_example = copies.view(-1, *(1,) * (case.z.ndim - 1))
    torch.testing.assert_close(weighted.cotangent, by_example * single.cotangent)
    u = normal(*case.z.shape, seed=9)
    torch.testing.assert_close(weighted.hessian(u), by_example * single.hessian(u))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_decomposes_a_network(name: str):
    y = {"bce": BITS, "poisson": COUNTS, "kl": SOFT, "huber": SOFT, "mse": SOFT}.get(name, Y)
    head = {"head": nn.LogSoftmax(1)} if name == "nll" else {}
    model = seeded(lambda: mlp(nn.Tanh, 4, 3, 3, **head))
    x = normal(7, 4, seed=6)
    oracle: Any = named(name).torch_function
    if name == "kl":
        oracle = divergence
    truth = dense(model, [(x, y.double() if name == "poisson" else y)], oracle)
    dec = Decomposition(model, split(x, y, 4, 1, 2), name)
    v = normal(dec.num_parameters)
    products = dec.products(v)
    wanted = {part: getattr(truth, part) @ v for part in PARTS}
    if name == "nll":  # as of the logits: log-softmax is part of the loss
        logits = seeded(lambda: mlp(nn.Tanh, 4, 3, 3))
        truth = dense(logits, [(x, y)], "cross-entropy")
        wanted = {part: getattr(truth, part) @ v for part in PARTS}
        assert wanted["gn"].norm() > 0
    for part in PARTS:
        assert relative_error(getattr(products, part), wanted[part]) < 1e-11
    assert dec.gradient().loss == pytest.approx(truth.loss, rel=1e-12)


def test_accuracy_of_bits():
    at = resolve("bce").at(Z, BITS)
    assert at.num_correct == int(((Z > 0) == (BITS > 0)).sum())
    assert at.num_counted == BITS.numel()
    assert resolve("bce").at(Z, SOFT).num_correct is None


# which dimension holds the classes


def test_classes_that_may_be_on_either_dimension_are_asked_for():
    z, y = normal(4, 5, 5), labels(4, 5, num_classes=5)
    with pytest.raises(InputError, match=r"class_axis=-1"):
        resolve("cross-entropy").at(z, y)
    for axis, value in ((-1, F.cross_entropy(z.mT, y)), (1, F.cross_entropy(z, y))):
        assert float(CrossEntropy(class_axis=axis)(z, y)) == pytest.approx(value.item())
    assert float(resolve(nn.CrossEntropyLoss())(z, y)) == pytest.approx(
        F.cross_entropy(z, y).item()
    )


def test_probabilities_tell_their_dimension_by_their_sums():
    z = normal(4, 5, 6)
    for axis in (1, 2):
        y = normal(4, 5, 6, seed=1).softmax(axis)
        wanted = -(y * z.log_softmax(axis)).sum(axis).mean()
        assert float(resolve("cross-entropy")(z, y)) == pytest.approx(wanted.item())


WRONG = {
    "a bit of 2": ("bce", Z, BITS + 1, "no probability"),
    "a negative count": ("poisson", Z, -COUNTS.double() - 1, "count is negative"),
    "a class as a count": ("poisson", Z[:, :2], Y, "labels out of range"),
    "labels for kl": ("kl", Z, Y, "a probability for every output"),
    "a negative probability": ("kl", Z, SOFT - 1, "negative"),
    "logits for nll": ("nll", Z, Y, "log-probabilities.*cross-entropy"),
    "logits for torch's kl": (nn.KLDivLoss(), Z, SOFT, "log-probabilities"),
    "one logit": ("cross-entropy", Z[:, 0], Y, "bce"),
    "two numbers for three outputs": ("mse", Z, SOFT[:, :2], "do not fit"),
    "three weights for seven": ("mse", Z, SOFT, "one an example"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_targets_that_do_not_fit(kind: str):
    loss, z, y, words = WRONG[kind]
    weights = torch.ones(3) if "weights" in kind else None
    with pytest.raises(InputError, match=f"(?s){words}"):
        resolve(loss).at(z, y, weights)


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_weights_that_are_none(value: float):
    with pytest.raises(InputError, match="no weight"):
        resolve("mse").at(Z, SOFT, torch.tensor([value, *[1.0] * 6]))
