"""The tangent kernel against Jacobians, and its relation to G."""

import pytest
import torch
from torch import nn

import hessdiag
from hessdiag.spectra.tangent_kernel import tangent_kernel
from hessdiag.training import tracking
from tests.cases import labels, mlp, normal, seeded
from tests.oracles import jacobian

X, Y = normal(7, 4), labels(7)


def model() -> nn.Module:
    return seeded(lambda: mlp(nn.GELU, 4, 5, 4, 3))


def test_trace_and_largest_eigenvalue_are_those_of_jacobians():
    j = jacobian(model(), [(X, Y)]).flatten(0, 1)
    kernel = j @ j.T / len(X)
    found = tangent_kernel(model(), [(X[:4], Y[:4]), (X[4:], Y[4:])], num_probes=64)
    assert abs(found.trace.value - float(kernel.trace())) < 4 * found.trace.stderr
    assert found.lambda_max.value == pytest.approx(float(torch.linalg.eigvalsh(kernel)[-1]))
    names = ("ntk.trace", "ntk.lambda_max")
    tracked = tracking.measured(names, model(), [(X, Y)], "cross-entropy", num_probes=64, seed=0)
    assert tracked["ntk.lambda_max"].value == pytest.approx(found.lambda_max.value)
    assert tracked["ntk.trace"].value == pytest.approx(found.trace.value)


def test_the_spectrum_of_g_is_that_of_the_kernel_times_the_outputs_hessian():
    p = model()(X).softmax(1).detach()
    outputs = torch.block_diag(*(torch.diag(row) - torch.outer(row, row) for row in p))
    j = jacobian(model(), [(X, Y)]).flatten(0, 1)
    product = j @ j.T / len(X) @ outputs
    wanted = torch.linalg.eigvals(product).real.sort(descending=True).values.tolist()
    count = len(X) * 2  # ranks of the softmax's Hessians are one less than there are classes
    options = {"parts": ("gn",), "top_k": count, "ends": "top", "density": False}
    found = hessdiag.spectrum(model(), [(X[:4], Y[:4]), (X[4:], Y[4:])], **options).parts["gn"]
    assert [ritz.value for ritz in found.top] == pytest.approx(wanted[:count], rel=1e-10)
