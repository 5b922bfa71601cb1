"""λ max under an optimizer's scales, and traces of classes, against dense matrices."""

import pytest
import torch

from hessdiag import Decomposition, InputError
from hessdiag.curvature.scaled_curvature import (
    adam_scale,
    class_traces,
    preconditioned_lambda_max,
)
from hessdiag.linalg.trace import Probes
from tests.cases import BY_NAME, normal
from tests.oracles import dense, truth_of


@pytest.mark.parametrize("part", ["hessian", "gn", "nme"])
def test_the_largest_eigenvalue_under_a_scale(part: str):
    model, batches, loss = BY_NAME["mlp-gelu"]
    truth = getattr(truth_of("mlp-gelu"), part)
    scale = normal(len(truth), seed=5).abs() + 0.1
    wanted = torch.linalg.eigvalsh(truth / scale.outer(scale).sqrt())[-1]
    found = preconditioned_lambda_max(Decomposition(model, batches, loss), scale, part=part)
    assert found.converged
    assert found.value == pytest.approx(float(wanted), rel=1e-8)
    with pytest.raises(InputError, match="scale"):
        preconditioned_lambda_max(Decomposition(model, batches, loss), scale - 5)


def test_traces_of_classes_add_up_to_the_trace():
    model, batches, loss = BY_NAME["mlp-gelu"]
    x, y = (torch.cat(both) for both in zip(*batches, strict=True))
    found = class_traces(model, batches, loss=loss, num_probes=64)
    for label, estimate in found.items():
        own = dense(model, [(x[y == label], y[y == label])], loss).hessian
        assert abs(estimate.value - float(own.trace())) < 4 * estimate.stderr
    shares = {label: float((y == label).double().mean()) for label in found}
    total = sum(shares[label] * estimate.value for label, estimate in found.items())
    rows = Decomposition(model, batches, loss)
    v = Probes(rows.num_parameters, seed=0, dtype=x.dtype, device=x.device).rows(0, 64)
    whole = (v * rows.products(v, ("hessian",)).hessian).sum(1).mean()
    assert total == pytest.approx(float(whole), rel=1e-10)
    with pytest.raises(InputError, match="labels"):
        class_traces(model, [(x, y.double())], loss=loss)


def test_the_scale_of_adam_is_the_root_mean_square_of_the_examples_gradients():
    model, batches, loss = BY_NAME["mlp-gelu"]
    x, y = (torch.cat(both) for both in zip(*batches, strict=True))
    moments = [
        dense(model, [(x[n : n + 1], y[n : n + 1])], loss).gradient ** 2 for n in range(len(y))
    ]
    wanted = torch.stack(moments).mean(0).sqrt() + 1e-8
    assert adam_scale(Decomposition(model, batches, loss)) == pytest.approx(wanted, rel=1e-9)


def test_examples_that_meet_in_batch_norm_cannot_be_told_apart():
    model, batches, loss = BY_NAME["mlp-gelu"]
    by_batch = Decomposition(model, batches, loss, bn="batch")
    with pytest.raises(InputError, match="told apart"):
        adam_scale(by_batch)
    with pytest.raises(InputError, match="told apart"):
        class_traces(model, batches, loss=loss, bn="batch")
