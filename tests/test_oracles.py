"""The oracles against each other; nothing here uses the package."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import jacrev
from torch.nn import functional as F

from tests.cases import BY_NAME, CASES, Case, labels, mlp, normal, seeded, split
from tests.oracles import (
    criterion,
    dense,
    flat_parameters,
    hessian_vector,
    jacobian,
    linear_mse,
    outputs,
    relative_error,
    softmax_regression,
    targets,
    truth_of,
    two_layer_nme,
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_parts_sum_to_the_hessian(case: Case):
    truth = truth_of(case.name)
    assert len(truth.gradient) <= 150
    assert relative_error(truth.gn + truth.nme, truth.hessian) < 1e-13
    assert truth.nme.norm() > 1e-3 * truth.hessian.norm()  # else N would be tested on nothing
    for matrix in (truth.hessian, truth.gn, truth.nme):
        assert relative_error(matrix.T, matrix) < 1e-13


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_dense_hessian_is_the_double_backward(case: Case):
    truth = truth_of(case.name)
    v = normal(len(truth.gradient), seed=1)
    assert relative_error(hessian_vector(*case, v), truth.hessian @ v) < 1e-13


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_dense_hessian_is_the_difference_of_gradients(case: Case):
    model, batches, loss = case
    truth = truth_of(case.name)
    theta, v = flat_parameters(model), normal(len(truth.gradient), seed=1)
    evaluate, y = outputs(model, batches), targets(batches)
    gradient = jacrev(lambda theta: criterion(loss)(evaluate(theta), y))
    step = 1e-5
    quotient = (gradient(theta + step * v) - gradient(theta - step * v)) / (2 * step)
    assert relative_error(quotient, truth.hessian @ v) < 1e-7


def test_output_curvature_of_cross_entropy_is_that_of_the_softmax():
    model, batches, _ = BY_NAME["mlp-silu-smoothing"]
    p = outputs(model, batches)(flat_parameters(model)).softmax(1)
    root = torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]
    factor = root.mT @ jacobian(model, batches)
    gn = torch.einsum("nkp,nkq->pq", factor, factor) / len(p)
    assert relative_error(gn, truth_of("mlp-silu-smoothing").gn) < 1e-13


def test_batch_statistics_are_those_of_each_given_batch():
    case = BY_NAME["cnn-gelu-bn"]
    model, batches, _ = case
    one = outputs(model, batches, bn="batch")(flat_parameters(model))
    for layer in model.modules():
        layer.train(isinstance(layer, nn.BatchNorm2d))
    torch.testing.assert_close(one, torch.cat([model(x) for x, _ in batches]))


def test_softmax_regression():
    x, y = normal(7, 4), labels(7)
    model = seeded(lambda: nn.Linear(4, 3, bias=False))
    truth = dense(model, split(x, y, 2, 5), "cross-entropy")
    closed = softmax_regression(model.weight.detach(), x, y)
    assert relative_error(truth.gn, closed.gn) < 1e-13
    assert relative_error(truth.hessian, closed.hessian) < 1e-13
    assert relative_error(truth.gradient, closed.gradient) < 1e-13
    assert truth.nme.abs().max() == 0
    assert truth.loss == pytest.approx(closed.loss, rel=1e-13)


def test_linear_regression():
    x, y = normal(7, 4), normal(7, 3, seed=1)
    model = seeded(lambda: nn.Linear(4, 3, bias=False))
    truth = dense(model, split(x, y, 2, 5), "mse")
    closed = linear_mse(model.weight.detach(), x, y)
    assert relative_error(truth.gn, closed.gn) < 1e-13
    assert relative_error(truth.hessian, closed.hessian) < 1e-13
    assert relative_error(truth.gradient, closed.gradient) < 1e-13
    assert truth.nme.abs().max() == 0
    assert truth.loss == pytest.approx(closed.loss, rel=1e-13)


def test_two_layer_nme():
    case = BY_NAME["mlp-tanh-mse"]
    model = seeded(lambda: mlp(nn.Tanh, 4, 5, 2))
    for layer in (model.fc1, model.fc2):
        layer.register_parameter("bias", None)
    w, u = model.fc1.weight.detach(), model.fc2.weight.detach()
    x, y = torch.cat([x for x, _ in case.batches]), targets(case.batches)
    c = 2 / len(u) * ((x @ w.T).tanh() @ u.T - y)
    assert relative_error(two_layer_nme(w, u, x, c), dense(model, case.batches, "mse").nme) < 1e-13


def test_the_mean_is_that_of_torch_on_the_concatenation():
    case = BY_NAME["segmentation"]
    model, batches, _ = case
    counted = sum(int((y != -100).sum()) for _, y in batches)
    total = sum(
        F.cross_entropy(model(x), y, reduction="sum").item() for x, y in batches if (y >= 0).any()
    )
    assert truth_of(case.name).loss == pytest.approx(total / counted, rel=1e-13)
    means = [F.cross_entropy(model(x), y).item() for x, y in batches if (y >= 0).any()]
    assert abs(sum(means) / len(means) - total / counted) > 1e-3
