"""Curvature at a finite radius: closed forms, kinks, and its pairing with the trace samples."""

import numpy as np
import pytest
import torch
from torch import nn

import hessdiag
from hessdiag import Decomposition, InputError
from hessdiag.curvature.secants import secant_curvatures
from hessdiag.linalg.trace import Probes
from hessdiag.spectra import spectrum_plan as plan
from hessdiag.spectra.spectrum_settings import Settings
from tests.cases import BY_NAME, labels, mlp, normal, seeded, split

F64 = torch.float64


def probes_of(decomposition: Decomposition, seed: int = 0) -> Probes:
    size = decomposition.num_parameters
    return Probes(size, seed=seed, dtype=F64, device=torch.device("cpu"))


def pointwise(decomposition: Decomposition, num_probes: int) -> np.ndarray:
    rows = probes_of(decomposition).rows(0, num_probes)
    products = decomposition.products(rows, ("hessian",)).hessian
    assert products is not None
    return (rows * products).sum(1).numpy()


class Slope(nn.Module):
    """The one-parameter network z = relu(w x)."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[w]], dtype=F64))

    def forward(self, x):
        return (x @ self.w).relu()


@pytest.mark.parametrize("radius", [1e-3, 1.0, 50.0])
def test_a_quadratic_risk_has_the_same_curvature_at_every_radius(radius: float):
    model = seeded(lambda: nn.Linear(4, 2))
    found = Decomposition(model, [(normal(9, 4), normal(9, 2, seed=1))], "mse")
    secants = secant_curvatures(found, probes_of(found), 6, radius)
    np.testing.assert_allclose(secants, pointwise(found, 6), rtol=1e-9)


@pytest.mark.parametrize("radius", [0.05, 0.2, 2.0])
def test_a_single_relu_agrees_with_the_jumps_of_its_gradient(radius: float):
    w, x, y = 0.1, normal(20, 1), normal(20, 1, seed=1)

    def gradient(at: float) -> torch.Tensor:
        return (2 * (at * x - y) * x * (at * x > 0)).mean()

    wanted = (gradient(w + radius) - gradient(w - radius)) / (2 * radius)
    found = Decomposition(Slope(w), [(x, y)], "mse")
    secants = secant_curvatures(found, probes_of(found), 3, radius)
    np.testing.assert_allclose(secants, float(wanted), rtol=1e-12)
    crosses = radius > w  # the kink of every example lies at w = 0
    assert (abs(float(wanted) - pointwise(found, 1)[0]) > 1e-3) == crosses


def test_the_excess_of_a_smooth_network_falls_with_the_square_of_the_radius():
    found = Decomposition(*BY_NAME["mlp-gelu"])
    exact = pointwise(found, 4)
    far, near = (
        np.abs(secant_curvatures(found, probes_of(found), 4, radius) - exact).max()
        for radius in (2e-3, 1e-3)
    )
    assert 3.9 < far / near < 4.1


def test_the_excess_is_paired_probe_by_probe_whatever_the_order_of_the_parts(
    monkeypatch: pytest.MonkeyPatch,
):
    model, batches, loss = BY_NAME["mlp-gelu"]
    monkeypatch.setattr(plan, "BASIS_BUDGET", 1)  # the parts then run one after another
    report = hessdiag.spectrum(
        model,
        batches,
        loss=loss,
        parts=("gn", "hessian"),
        num_probes=9,
        top_k=2,
        finite_radius=1e-4,
        max_passes=4,
    )
    found = report.finite_radius
    assert found is not None
    assert found.radius == 1e-4
    assert abs(found.excess.value) < 1e-5 * abs(found.trace.value)
    assert found.excess.stderr is not None
    assert found.excess.stderr < 1e-5 * abs(found.trace.value)
    assert found.trace.num_probes == found.excess.num_probes == 9
    assert report.cost.passes["finite_radius"] == 18


def test_relu_has_curvature_that_the_pointwise_hessian_misses():
    model = seeded(lambda: mlp(nn.ReLU, 4, 60, 60, 3))
    batches = split(normal(40, 4), labels(40), 40)
    report = hessdiag.spectrum(
        model, batches, num_probes=64, top_k=0, density=False, finite_radius=0.02
    )
    found = report.finite_radius
    assert found is not None
    assert found.excess.ci95 is not None
    assert found.excess.ci95[0] > 0


def test_the_network_stays_where_it_is():
    model, batches, loss = BY_NAME["mlp-gelu"]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = Decomposition(model, batches, loss)
    first = found.gradient().vector
    secant_curvatures(found, probes_of(found), 2, 1.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert found.gradient().vector is first


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan"), float("inf")])
def test_a_radius_out_of_range_is_refused(radius: float):
    with pytest.raises(InputError, match=r"finite_radius. is out of range"):
        Settings(finite_radius=radius)


def test_the_hessian_must_be_among_the_parts():
    with pytest.raises(InputError, match="compared with the Hessian"):
        Settings(parts=("nme",), finite_radius=0.1)


def test_a_radius_too_far_out_says_so():
    model, batches, loss = BY_NAME["mlp-gelu"]
    with pytest.raises(InputError, match="cannot be evaluated at this radius") as caught:
        hessdiag.spectrum(model, batches, loss=loss, num_probes=2, finite_radius=1e300)
    assert "smaller --finite-radius" in str(caught.value)


def test_a_radius_that_drowns_in_rounding_is_noted():
    model = seeded(lambda: mlp(nn.GELU, 4, 8, 3))
    for radius, noted in ((1e-3, False), (1e-9, True)):
        report = hessdiag.spectrum(
            model,
            [(normal(30, 4), labels(30))],
            dtype=torch.float32,
            num_probes=4,
            top_k=0,
            density=False,
            finite_radius=radius,
        )
        assert any("rounding" in note for note in report.notes) == noted
        found = report.finite_radius
        assert found is not None
        assert not noted or found.rounding > abs(found.excess.value) / 100
