"""The tangent kernel against Jacobians: its ends, its change, and its relation to G."""

import pytest
import torch
from torch import nn

import hessdiag
from hessdiag import Decomposition
from hessdiag.curvature import tangent_kernel as kernels
from hessdiag.curvature.tangent_kernel import kernel_change, kernel_matrix, tangent_kernel
from tests.cases import labels, mlp, normal, seeded, split
from tests.oracles import jacobian

X, Y = normal(7, 4), labels(7)


def model(seed: int = 0) -> nn.Module:
    return seeded(lambda: mlp(nn.GELU, 4, 5, 4, 3), seed)


def true_kernel(seed: int = 0, x: torch.Tensor = X) -> torch.Tensor:
    j = jacobian(model(seed), [(x, labels(len(x)))]).flatten(0, 1)
    return j @ j.T


@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
def test_trace_and_largest_eigenvalue_are_those_of_jacobians(loss: str):
    kernel = true_kernel() / len(X)
    decomposition = Decomposition(model(), split(X, Y, 4, 3), loss)
    found = tangent_kernel(decomposition, num_probes=64)
    assert abs(found.trace.value - float(kernel.trace())) < 4 * found.trace.stderr
    assert found.lambda_max.value == pytest.approx(float(torch.linalg.eigvalsh(kernel)[-1]))
    low, high = found.lambda_max.interval
    assert low <= found.lambda_max.value <= high
    assert tangent_kernel(decomposition, num_probes=2, eigenvalue=False).lambda_max is None


def test_the_interval_of_the_largest_eigenvalue_is_narrow():
    network, x = seeded(lambda: mlp(nn.GELU, 12, 30, 20, 5)), normal(60, 12)
    j = jacobian(network, [(x, labels(60))]).flatten(0, 1)
    wanted = float(torch.linalg.eigvalsh(j @ j.T)[-1]) / 60
    decomposition = Decomposition(network.float(), [(x.float(), labels(60))])
    low, high = tangent_kernel(decomposition, num_probes=0).lambda_max.interval
    assert low <= wanted * (1 + 1e-6)
    assert wanted * (1 - 1e-6) <= high < low * 1.001


def test_the_spectrum_of_g_is_that_of_the_kernel_times_the_outputs_hessian():
    p = model()(X).softmax(1).detach()
    outputs = torch.block_diag(*(torch.diag(row) - torch.outer(row, row) for row in p))
    product = true_kernel() / len(X) @ outputs
    wanted = torch.linalg.eigvals(product).real.sort(descending=True).values.tolist()
    count = len(X) * 2  # ranks of the softmax's Hessians are one less than there are classes
    options = {"parts": ("gn",), "top_k": count, "ends": "top", "density": False}
    found = hessdiag.spectrum(model(), split(X, Y, 4, 3), **options).parts["gn"]
    assert [ritz.value for ritz in found.top] == pytest.approx(wanted[:count], rel=1e-10)


def test_the_kernel_itself_however_batched(monkeypatch: pytest.MonkeyPatch):
    x, y = normal(20, 4), labels(20)
    for sizes in ((20,), (5, 9, 6), (1,) * 20):
        found = kernel_matrix(Decomposition(model(), split(x, y, *sizes)))
        assert found == pytest.approx(true_kernel(0, x[:16]), rel=1e-10)
    monkeypatch.setattr(kernels, "NUM_OUTPUTS", 10)
    few = kernel_matrix(Decomposition(model(), [(x, y)]))
    whole, values = true_kernel(0, x[:16]), few.diagonal()
    at = [int((whole.diagonal() - value).abs().argmin()) for value in values]
    assert few == pytest.approx(whole[at][:, at], rel=1e-10)


def test_its_change_is_one_less_the_cosine():
    now, before = (kernel_matrix(Decomposition(model(seed), [(X, Y)])) for seed in (1, 0))
    a, b = true_kernel(1).flatten(), true_kernel(0).flatten()
    wanted = 1 - torch.nn.functional.cosine_similarity(a, b, dim=0)
    assert kernel_change(now, before) == pytest.approx(float(wanted), rel=1e-10)
    assert kernel_change(3 * now, now) == pytest.approx(0, abs=1e-14)
