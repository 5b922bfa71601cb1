"""Norms of blocks against the dense matrices, and what the activation does to those of N."""

import numpy as np
import pytest
import torch
from torch import nn

import hessdiag
from hessdiag import InputError
from hessdiag.block_maps.blocks_run import layers
from tests.cases import BY_NAME, labels, mlp, normal, seeded
from tests.oracles import truth_of

PARTS = ("hessian", "gn", "nme")


def dense_norms(name, by="layer"):
    """Norms of the blocks of the dense matrices, cut where the parameters lie."""
    model, _, _ = BY_NAME[name]
    truth = truth_of(name)
    slices, start = {}, 0
    for key, tensor in model.named_parameters():
        slices[key] = slice(start, start := start + tensor.numel())
    places = list(layers(slices, by=by).values())
    return {
        part: np.array(
            [[float(getattr(truth, part)[a][:, b].norm()) for b in places] for a in places]
        )
        for part in PARTS
    }


@pytest.mark.parametrize("name", ["mlp-gelu", "mlp-tanh-mse"])
@pytest.mark.parametrize("by", ["layer", "parameter"])
def test_layers_that_are_multiplied_out_have_exact_blocks(name, by):
    model, batches, loss = BY_NAME[name]
    found = hessdiag.blocks(model, batches, loss=loss, num_probes=100, by=by)
    assert all(layer.exact for layer in found.layers)
    for part, wanted in dense_norms(name, by).items():
        assert found.parts[part].norm == pytest.approx(wanted, rel=1e-10, abs=1e-12)
        assert not found.parts[part].stderr.any()
        total = np.square(wanted).sum()
        assert found.parts[part].frobenius_norm.value == pytest.approx(total**0.5, rel=1e-10)
        share = np.square(np.diag(wanted)).sum() / total
        assert found.parts[part].within.value == pytest.approx(share, rel=1e-10)


def test_sampled_blocks_are_within_their_errors():
    model, batches, loss = BY_NAME["mlp-gelu"]
    deviations, shares = [], []
    wanted = dense_norms("mlp-gelu")
    within = {
        part: np.square(np.diag(norms)).sum() / np.square(norms).sum()
        for part, norms in wanted.items()
    }
    for seed in range(8):
        found = hessdiag.blocks(model, batches, loss=loss, num_probes=14, seed=seed)
        assert not all(layer.exact for layer in found.layers)
        for part, norms in found.parts.items():
            sampled = norms.stderr > 0
            off = np.square(norms.norm) - np.square(wanted[part])
            deviations.append((off / (2 * norms.norm * norms.stderr).clip(1e-300))[sampled])
            assert norms.norm[~sampled] == pytest.approx(wanted[part][~sampled], abs=1e-10)
            shares.append((norms.within.value - within[part]) / norms.within.stderr)
    scores = np.concatenate(deviations)
    assert len(scores) > 20
    assert np.mean(np.abs(scores) < 4) > 0.97  # Student's tails, of 14 probes
    assert np.abs(shares).max() < 5
    assert abs(np.mean(shares)) < 1.5


def of(activation):
    model = seeded(lambda: mlp(activation, 4, 6, 5, 3))
    return hessdiag.blocks(model, [(normal(9, 4), labels(9))], num_probes=4)


def test_relu_has_no_nme_within_layers_but_between_them():
    found = of(nn.ReLU).parts["nme"]
    assert not np.diag(found.norm).any()
    assert found.within.value == 0
    assert (found.norm[~np.eye(3, dtype=bool)] > 1e-3).all()
    smooth = of(nn.GELU).parts["nme"]
    assert (np.diag(smooth.norm)[:2] > 1e-3).all()
    assert np.diag(smooth.norm)[2] == 0  # z is linear in its last layer


def test_a_linear_network_has_no_share():
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 2)))
    found = hessdiag.blocks(model, [(normal(5, 3), labels(5, num_classes=2))], num_probes=2)
    assert found.parts["nme"].within is None
    assert found.parts["gn"].within.value == pytest.approx(1)


def test_nothing_of_the_network_changes_and_settings_are_checked():
    model, batches, loss = BY_NAME["mlp-gelu"]
    before = [tensor.clone() for tensor in model.parameters()]
    only = hessdiag.blocks(model, batches, loss=loss, num_probes=2, parts=("gn",))
    assert list(only.parts) == ["gn"]
    assert all(map(torch.equal, before, model.parameters()))
    with pytest.raises(InputError, match="num_probes"):
        hessdiag.blocks(model, batches, loss=loss, num_probes=1)
