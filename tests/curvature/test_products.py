"""Products of a vector with H, G and N: against dense truth, and the identities of the parts."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.parts import PARTS
from tests.cases import BY_NAME, CASES, Case, cnn, labels, mlp, normal, seeded, split
from tests.oracles import (
    dense,
    flat_parameters,
    hessian_vector,
    jacobian,
    linear_mse,
    outputs,
    relative_error,
    softmax_regression,
    trainable,
    truth_of,
    two_layer_nme,
)

each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_part = pytest.mark.parametrize("part", PARTS)


def matrices(dec: Decomposition) -> dict[str, Tensor]:
    return {part: dec.operator(part).dense() for part in PARTS}


@each_case
def test_products_are_those_of_the_dense_matrices(case: Case):
    dec, truth = Decomposition(*case), truth_of(case.name)
    assert dec.num_parameters == len(truth.gradient)
    v = normal(3, dec.num_parameters, seed=7)
    products = dec.products(v)
    for part in PARTS:
        assert relative_error(getattr(products, part), v @ getattr(truth, part)) < 1e-11, part


@each_case
def test_gn_and_nme_sum_to_an_independent_double_backward(case: Case):
    dec = Decomposition(*case)
    v = normal(dec.num_parameters, seed=8)
    products, wanted = dec.products(v), hessian_vector(*case, v)
    assert relative_error(products.gn + products.nme, wanted) < 1e-12
    assert relative_error(products.hessian, wanted) < 1e-12


@each_case
def test_float32_agrees_to_single_precision(case: Case):
    dec, truth = Decomposition(*case, dtype=torch.float32), truth_of(case.name)
    v = normal(2, dec.num_parameters, seed=9)
    products = dec.products(v.float())
    scale = (v @ truth.hessian).norm() + (v @ truth.gn).norm()
    for part in PARTS:
        got = getattr(products, part)
        assert got.dtype == torch.float32
        assert (got.double() - v @ getattr(truth, part)).norm() < 1e-5 * scale, part


@each_case
def test_rows_are_answered_as_single_vectors_are(case: Case):
    dec = Decomposition(*case)
    v = normal(4, dec.num_parameters, seed=10)
    block, singles = dec.products(v), [dec.products(row) for row in v]
    for part in PARTS:
        assert getattr(block, part).shape == v.shape
        assert getattr(singles[0], part).shape == v[0].shape
        rows = torch.stack([getattr(single, part) for single in singles])
        assert relative_error(getattr(block, part), rows) < 1e-13


SUBSETS = [subset for size in (1, 2, 3) for subset in itertools.combinations(PARTS, size)]


@pytest.mark.parametrize("parts", SUBSETS, ids="+".join)
@pytest.mark.parametrize("name", ["mlp-gelu", "attention", "unused"])
def test_only_the_parts_asked_for_are_answered(name: str, parts: tuple[str, ...]):
    dec, truth = Decomposition(*BY_NAME[name]), truth_of(name)
    v = normal(2, dec.num_parameters, seed=11)
    products = dec.products(v, parts=parts)
    for part in PARTS:
        if part in parts:
            assert relative_error(getattr(products, part), v @ getattr(truth, part)) < 1e-11
        else:
            assert getattr(products, part) is None


def test_products_repeat_bit_for_bit():
    dec = Decomposition(*BY_NAME["residual"])
    v = normal(dec.num_parameters)
    first, second = dec.products(v), dec.products(v)
    for part in PARTS:
        assert torch.equal(getattr(first, part), getattr(second, part))


@each_part
@pytest.mark.parametrize("name", ["mlp-silu-smoothing", "shared", "frozen"])
def test_operators_apply_one_part(name: str, part: str):
    dec, wanted = Decomposition(*BY_NAME[name]), getattr(truth_of(name), part)
    v = normal(dec.num_parameters, seed=12)
    operator = dec.operator(part)
    assert relative_error(operator.matvec(v), wanted @ v) < 1e-11
    assert relative_error(operator.dense(), wanted) < 1e-11
    linear = operator.to_scipy()
    assert linear.shape == wanted.shape
    assert relative_error(torch.as_tensor(linear @ v.numpy()), wanted @ v) < 1e-11
    block = normal(dec.num_parameters, 3, seed=12)
    assert relative_error(torch.as_tensor(linear @ block.numpy()), wanted @ block) < 1e-11
    assert relative_error(torch.as_tensor(linear.rmatvec(v.numpy())), wanted @ v) < 1e-11


@each_case
def test_every_part_is_symmetric_and_gn_positive_semidefinite(case: Case):
    found = matrices(Decomposition(*case))
    for matrix in found.values():
        assert relative_error(matrix.T, matrix) < 1e-12
    if case.convex:
        lowest, *_, highest = torch.linalg.eigvalsh(found["gn"])
        assert lowest > -1e-13 * highest


@pytest.mark.parametrize("name", ["mlp-gelu", "cnn-relu-bn", "attention"])
def test_nonzero_spectrum_of_gn_is_that_of_the_ntk_side(name: str):
    """The (NC, NC) matrix (1/N) Sᵀ J Jᵀ S, with S = diag(√p) − p √pᵀ of each example."""
    model, batches, loss = BY_NAME[name]
    p = outputs(model, batches)(flat_parameters(model)).softmax(1)
    s = torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]
    rows = (s.mT @ jacobian(model, batches)).flatten(0, 1)
    wanted = torch.linalg.eigvalsh(rows @ rows.T / len(p))
    got = torch.linalg.eigvalsh(Decomposition(model, batches, loss).operator("gn").dense())
    common = min(len(got), len(wanted))
    torch.testing.assert_close(got[-common:], wanted[-common:], rtol=1e-10, atol=1e-13)
    assert (got[:-common].abs() < 1e-13).all()


# Closed forms


def test_softmax_regression():
    x, y = normal(7, 4), labels(7)
    model = seeded(lambda: nn.Linear(4, 3, bias=False))
    dec = Decomposition(model, split(x, y, 2, 5))
    closed = softmax_regression(model.weight.detach(), x, y)
    found = matrices(dec)
    assert relative_error(found["gn"], closed.gn) < 1e-13
    assert relative_error(found["hessian"], closed.hessian) < 1e-13
    assert found["nme"].abs().max() < 1e-15
    assert relative_error(dec.gradient().vector, closed.gradient) < 1e-13


def test_linear_regression():
    x, y = normal(7, 4), normal(7, 3, seed=1)
    model = seeded(lambda: nn.Linear(4, 3, bias=False))
    dec = Decomposition(model, split(x, y, 2, 5), nn.MSELoss())
    closed = linear_mse(model.weight.detach(), x, y)
    found = matrices(dec)
    assert relative_error(found["gn"], closed.gn) < 1e-13
    assert relative_error(found["hessian"], closed.hessian) < 1e-13
    assert found["nme"].abs().max() < 1e-15
    assert relative_error(dec.gradient().vector, closed.gradient) < 1e-13


def test_two_layer_nme():
    w, u, x, y = normal(5, 4), normal(2, 5, seed=1), normal(7, 4, seed=2), normal(7, 2, seed=3)
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 2, bias=False))
    model = model.double()
    model.load_state_dict({"0.weight": w, "2.weight": u})
    c = 2 / 2 * ((x @ w.T).tanh() @ u.T - y)
    nme = Decomposition(model, split(x, y, 3, 4), "mse").operator("nme").dense()
    assert relative_error(nme, two_layer_nme(w, u, x, c)) < 1e-13


def test_nme_vanishes_where_the_labels_are_met():
    model = BY_NAME["mlp-tanh-mse"].make_model()
    x = normal(6, 4)
    dec = Decomposition(model, split(x, model(x).detach(), 2, 4), "mse")
    products = dec.products(normal(dec.num_parameters))
    assert products.nme.norm() < 1e-15 * products.gn.norm()
    assert torch.equal(products.hessian, products.gn + products.nme)


# Piecewise-linear networks: N has no within-layer blocks (weight and bias, or γ and β, together)


def layer_pairs(dec: Decomposition, matrix: Tensor) -> tuple[float, float]:
    """Return the largest |entry| within the layers and between them."""
    of_parameter = [name.rpartition(".")[0] for name in dec.layout.names]
    sizes = [len(range(*dec.layout.slices[name].indices(len(matrix)))) for name in dec.layout.names]
    layers = [layer for layer, size in zip(of_parameter, sizes, strict=True) for _ in range(size)]
    same = torch.tensor([[one == other for other in layers] for one in layers])
    return matrix[same].abs().max().item(), matrix[~same].abs().max().item()


@pytest.mark.parametrize("name", ["mlp-relu", "cnn-relu-bn"])
def test_within_layer_blocks_of_relu_nme_are_zero(name: str):
    dec = Decomposition(*BY_NAME[name])
    found = matrices(dec)
    within, across = layer_pairs(dec, found["nme"])
    assert across > 1e-2 * found["hessian"].abs().max()
    assert within < 1e-15 * across
    assert found["hessian"].trace().item() == pytest.approx(found["gn"].trace().item(), rel=1e-12)


def test_within_layer_blocks_of_smooth_nme_are_not_zero():
    dec = Decomposition(*BY_NAME["cnn-gelu-bn"])
    within, across = layer_pairs(dec, dec.operator("nme").dense())
    assert within > 1e-2 * across


def test_batch_statistics_give_relu_nme_within_layer_blocks():
    case = BY_NAME["cnn-relu-bn"]
    batches = split(normal(6, 1, 5, 5), labels(6), 4, 2)
    dec = Decomposition(seeded(cnn), batches, bn="batch")
    found, truth = matrices(dec), dense(case.make_model(), batches, "cross-entropy", bn="batch")
    for part in PARTS:
        assert relative_error(found[part], getattr(truth, part)) < 1e-11
    within, across = layer_pairs(dec, found["nme"])
    assert within > 1e-2 * across


# Fisher: labels drawn from the model itself, by enumeration of every assignment


def test_model_labels_average_nme_to_zero_and_the_hessian_to_gn():
    x = normal(3, 2)
    model = seeded(lambda: mlp(nn.GELU, 2, 3, 3))
    p = F.softmax(model(x), 1).detach()
    expected = {part: torch.zeros(21, 21, dtype=x.dtype) for part in PARTS}
    squared_norm, largest = 0.0, 0.0
    for assignment in itertools.product(range(3), repeat=3):
        probability = math.prod(p[n, k].item() for n, k in enumerate(assignment))
        dec = Decomposition(model, split(x, torch.tensor(assignment), 1, 2))
        found = matrices(dec)
        for part in PARTS:
            expected[part] += probability * found[part]
        largest = max(largest, found["nme"].abs().max().item())
        squared_norm += probability * dec.gradient().vector.square().sum().item()
    gn = expected["gn"]
    assert largest > 1e-2 * gn.abs().max()
    assert expected["nme"].abs().max() < 1e-13 * largest
    assert relative_error(expected["hessian"], gn) < 1e-13
    assert gn.trace().item() == pytest.approx(len(x) * squared_norm, rel=1e-12)


@each_case
def test_the_layout_is_that_of_the_trainable_parameters(case: Case):
    model, batches, loss = case
    dec = Decomposition(model, batches, loss)
    assert dec.layout.names == tuple(trainable(model))
    gradients = [p.detach() for p in trainable(model).values()]
    flat = dec.layout.flatten(gradients)
    assert torch.equal(flat, flat_parameters(model))
    for name, p in trainable(model).items():
        assert torch.equal(flat[dec.layout.slices[name]], p.detach().flatten())
