"""Figure 1: exact derivatives of two weights, no NME for ReLU, bands of width 1/β for β-GELU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hessdiag
from hessdiag.errors import InputError
from hessdiag.landscapes import two_weights
from hessdiag.landscapes.planes import Plane
from hessdiag.progress import Progress
from tests.cases import normal
from tests.oracles import dense

EXAMPLE = [
    (
        torch.tensor([two_weights.INPUT], dtype=torch.float64),
        torch.tensor([[two_weights.TARGET]], dtype=torch.float64),
    )
]
CHOICES = [("relu", None), ("beta_gelu", 10.0), ("tanh", None), ("silu", None)]
AT = [0, 3]  # of the two weights in the flat vector: [0,0] and [1,1] of (8, 2)


@pytest.mark.parametrize(("name", "beta"), CHOICES)
def test_it_is_the_block_of_the_dense_matrices(name: str, beta: float | None):
    steps = normal(6, 2, seed=60)
    found = two_weights.evaluate(two_weights.make_network(name, beta), steps)
    for step, (loss, gn_norm, nme_norm) in zip(steps, found, strict=True):
        network = two_weights.make_network(name, beta)
        with torch.no_grad():
            network.layers[0].weight[0, 0] += step[0]
            network.layers[0].weight[1, 1] += step[1]
        truth = dense(network, EXAMPLE, "mse")
        assert loss == pytest.approx(truth.loss, rel=1e-12)
        assert gn_norm == pytest.approx(truth.gn[AT][:, AT].norm().item(), rel=1e-12, abs=1e-14)
        wanted = truth.nme[AT][:, AT].norm().item()
        assert nme_norm == pytest.approx(wanted, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize(("name", "beta"), CHOICES[:2])
def test_it_agrees_with_the_landscape_of_a_network(name: str, beta: float | None):
    (surface,) = two_weights.compare([(name, beta)], resolution=7, radius=0.9).surfaces
    general = hessdiag.landscape(
        two_weights.make_network(name, beta),
        EXAMPLE,
        loss="mse",
        weights=two_weights.WEIGHTS,
        resolution=7,
        radius=0.9,
    )
    for field in ("loss", "gn_norm", "nme_norm"):
        np.testing.assert_allclose(
            getattr(surface, field), getattr(general.surfaces[0], field), rtol=1e-12, atol=1e-12
        )
        ours, theirs = (getattr(s.origin, field) for s in (surface, general.surfaces[0]))
        assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-12)


def test_relu_has_no_nme_away_from_the_kinks():
    (surface,) = two_weights.compare([("relu", None)], resolution=101).surfaces
    assert (surface.nme_norm == 0).all()


def test_relu_shows_kinks_of_both_layers():
    """On either side of a kink G differs, and between kinks it is constant."""
    (surface,) = two_weights.compare([("relu", None)], resolution=161).surfaces
    values, counts = np.unique(surface.gn_norm.round(9), return_counts=True)
    assert (counts > 100).sum() >= 8
    assert len(values) < 30


def band_width(beta: float) -> float:
    """Full width at half height of the band where the first neuron's input crosses zero."""
    network = two_weights.make_network("beta_gelu", beta)
    x = torch.tensor(two_weights.INPUT, dtype=torch.float64)
    kink = -network.layers[0](x)[0].item() / two_weights.INPUT[0]
    a = np.linspace(kink - 3 / beta, kink + 3 / beta, 10_001)
    line = np.stack([a, np.full_like(a, -0.9)], axis=1)  # where no other band crosses
    nme_norm = two_weights.evaluate(network, torch.from_numpy(line))[:, 2]
    assert abs(a[nme_norm.argmax()] - kink) < 0.1 / beta
    return float(np.ptp(a[nme_norm > nme_norm.max() / 2]))


def test_the_bands_are_as_wide_as_one_over_beta():
    betas = [5.0, 10.0, 20.0, 40.0, 80.0]
    widths = [band_width(beta) for beta in betas]
    slope, _ = np.polyfit(np.log(betas), np.log(widths), 1)
    assert slope == pytest.approx(-1, abs=0.02)


def test_the_peaks_grow_with_beta_and_the_area_under_them_stays():
    """φ'' tends to a delta function: as β doubles, half as many points hold twice the norm."""
    surfaces = two_weights.compare(
        [("beta_gelu", 20.0), ("beta_gelu", 80.0)], resolution=161
    ).surfaces
    soft, sharp = (surface.nme_norm for surface in surfaces)
    assert sharp.max() / soft.max() == pytest.approx(4, rel=0.25)
    assert sharp.mean() / soft.mean() == pytest.approx(1, rel=0.1)
    assert (sharp > 1).mean() < (soft > 1).mean() / 2


def test_how_points_are_cut_is_of_no_account(monkeypatch):
    whole = two_weights.compare(resolution=9)
    monkeypatch.setattr(two_weights, "_CHUNK", 10)
    states: list[Progress] = []
    cut = two_weights.compare(resolution=9, on_point=states.append)
    seen = [(now.done, now.expected) for now in states]
    for one, other in zip(whole.surfaces, cut.surfaces, strict=True):
        np.testing.assert_allclose(one.nme_norm, other.nme_norm, rtol=1e-12)
    assert seen[-1] == (162, 162)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_the_result_says_what_it_is():
    found = two_weights.compare(resolution=5)
    assert [(s.activation, s.beta) for s in found.surfaces] == [("relu", None), ("beta_gelu", 10)]
    assert (found.plane, found.labels) == ("weights", two_weights.WEIGHTS)
    assert (found.num_samples, found.num_parameters, found.num_points) == (1, 105, 50)
    settings = found.settings
    assert (found.risk.name, settings.dtype, settings.device) == ("mse", "float64", "cpu")
    assert found.notes == (
        "relu: the NME norm is exactly 0 at every point, and no point lies on a kink",
    )
    (one,) = two_weights.compare([("gelu", None)], resolution=5, seed=0).surfaces
    (two,) = two_weights.compare([("gelu", None)], resolution=5, seed=1).surfaces
    assert not np.allclose(one.loss, two.loss)


def test_torch_s_global_generator_is_left_alone():
    state = torch.get_rng_state()
    two_weights.compare(resolution=3)
    assert torch.equal(state, torch.get_rng_state())


def test_a_derivative_that_counts_as_constant_has_no_nme():
    network = two_weights.make_network("relu")
    network.layers[1] = network.layers[3] = torch.nn.Identity()
    found = two_weights.evaluate(network, normal(5, 2))
    assert not found[:, 2].any()
    assert np.ptp(found[:, 1]) < 1e-12 < found[0, 1]


def test_an_overflow_is_a_gap():
    found = two_weights.compare([("beta_gelu", 1e308)], resolution=5, radius=10.0)
    (surface,) = found.surfaces
    assert np.isnan(surface.loss).any()
    assert "beta_gelu: the loss is not finite" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "beta", "words"),
    [
        ("beta_gelu", 0.0, "β is out of range"),
        ("beta_gelu", float("nan"), "β is out of range"),
        ("beta_gelu", None, "needs a β"),
        ("relu", 2.0, "takes no β"),
        ("gleu", None, "unknown activation"),
    ],
)
def test_bad_activations_are_refused(name: str, beta: float | None, words: str):
    with pytest.raises(InputError, match=words):
        two_weights.compare([(name, beta)])


def test_bad_grids_are_refused():
    for options in ({"resolution": 1}, {"radius": -1.0}, {"resolution": 10**9}):
        with pytest.raises(InputError):
            two_weights.compare(**options)


def test_the_plane_is_that_of_the_two_names():
    network = two_weights.make_network("tanh")
    units = torch.zeros(2, 105, dtype=torch.float64)
    units[[0, 1], AT] = 1
    plane = Plane("own", ("u", "v"), units[0], units[1])
    own = hessdiag.landscape(network, EXAMPLE, loss="mse", plane=plane, resolution=3)
    (surface,) = two_weights.compare([("tanh", None)], resolution=3).surfaces
    np.testing.assert_allclose(own.surfaces[0].loss, surface.loss, rtol=1e-12)
