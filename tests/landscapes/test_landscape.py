"""The landscape of a network: exact against dense matrices, harmless, and clear about mistakes."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hessdiag
from hessdiag import InputError, Landscape
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.landscapes import landscape_run as landscape_module
from hessdiag.landscapes import surfaces
from hessdiag.landscapes.landscape_result import LandscapeSettings
from hessdiag.landscapes.planes import Plane, random_plane, weight_plane
from hessdiag.linalg.trace import Probes, TraceSamples
from tests.cases import BY_NAME, Case, labels, normal, seeded, split
from tests.oracles import Dense, dense, trainable

CASES = ["mlp-gelu", "mlp-tanh-mse", "cnn-gelu-bn", "shared", "attention"]


def survey(case: Case, **options: Any) -> Landscape:
    model, batches, loss = case
    return hessdiag.landscape(model, batches, loss=loss, **options)  # pyright: ignore


def truth_at(case: Case, step: Tensor) -> Dense:
    """The dense matrices of the case with its parameters moved by ``step``."""
    model = case.make_model()
    parameters = list(trainable(model).values())
    with torch.no_grad():
        for parameter, part in zip(
            parameters, step.split([p.numel() for p in parameters]), strict=True
        ):
            parameter += part.view_as(parameter)
    return dense(model, case.batches, case.loss)


def own_plane(size: int) -> Plane:
    """Two directions that are neither unit nor orthogonal."""
    first, second = normal(2, size, seed=50)
    return Plane("own", ("u", "v"), 0.3 * first, 0.2 * first + 0.1 * second)


def check(found: Landscape, case: Case, plane: Plane, *points: tuple[int, int]) -> None:
    (surface,) = found.surfaces
    q, _ = torch.linalg.qr(torch.stack([plane.first, plane.second], 1).double())
    for i, j in points:
        truth = truth_at(case, found.a[i] * plane.first + found.b[j] * plane.second)
        assert surface.loss[i, j] == pytest.approx(truth.loss, rel=1e-12)
        for name in ("gn", "nme"):
            wanted = (q.T @ getattr(truth, name) @ q).norm().item()
            got = getattr(surface, f"{name}_norm")[i, j]
            assert got == pytest.approx(wanted, rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_every_value_is_that_of_the_displaced_network(name: str):
    case = BY_NAME[name]
    dec = Decomposition(*case)
    found = survey(case, resolution=3, radius=0.7, seed=4)
    check(found, case, random_plane(dec, seed=4), (0, 2))
    plane = own_plane(dec.num_parameters)
    check(survey(case, plane=plane, resolution=4), case, plane, (3, 1))


def test_two_weights_span_the_plane():
    case = BY_NAME["mlp-gelu"]
    names = ("fc1.weight[0,1]", "fc2.bias[2]")
    found = survey(case, weights=names, resolution=5, radius=2.0)
    check(found, case, weight_plane(Decomposition(*case), names), (1, 4), (2, 2))
    assert (found.plane, found.labels) == ("weights", names)


def test_at_the_origin_eigenvectors_give_their_eigenvalues():
    found = survey(BY_NAME["mlp-gelu"], plane="gn", resolution=3, radius=0.1)
    values = [ritz.value for ritz in found.eigenvalues]
    assert len(values) == 2
    (surface,) = found.surfaces
    assert surface.gn_norm[1, 1] == pytest.approx(math.hypot(*values), rel=1e-8)
    assert surface.origin.gn_norm == surface.gn_norm[1, 1]


def test_one_layer_of_relu_has_no_nme():
    names = ("fc1.weight[0,1]", "fc1.weight[3,2]")
    (surface,) = survey(BY_NAME["mlp-relu"], weights=names, resolution=6).surfaces
    assert not surface.nme_norm.any()
    assert surface.gn_norm.any()


def test_the_full_norms_are_right_within_their_errors():
    case = BY_NAME["mlp-gelu"]
    plane = own_plane(Decomposition(*case).num_parameters)
    axis = surfaces.make_axis(2, 1.0, num_values=3)
    corners = {
        (i, j): truth_at(case, axis[i] * plane.first + axis[j] * plane.second)
        for i, j in ((0, 0), (1, 0))
    }
    errors: list[float] = []
    for seed in range(4):
        found = survey(case, plane=plane, resolution=2, num_probes=24, seed=seed)
        for at, truth in corners.items():
            for name in ("gn", "nme"):
                full = getattr(found.surfaces[0], f"{name}_full")
                wanted = getattr(truth, name).norm().item()
                errors.append((full.value[at] - wanted) / full.stderr[at])
    assert max(map(abs, errors)) < 4
    assert found.settings.num_probes == 24


@pytest.mark.parametrize("chunk", [10**9, 5])
def test_every_point_sees_the_same_probes(monkeypatch, chunk: int):
    """Whether they fit in one pass or not."""
    case = BY_NAME["mlp-gelu"]
    dec = Decomposition(*case)
    monkeypatch.setattr(landscape_module, "_PROBE_BUDGET", 3 * dec.num_parameters * 8 * chunk)
    plane = own_plane(dec.num_parameters)
    found = survey(case, plane=plane, resolution=2, num_probes=12, seed=9)
    rows = Probes(dec.num_parameters, seed=9, dtype=dec.risk.dtype, device=dec.risk.device)
    for i, j in ((0, 1), (1, 1)):
        moved = dec.displaced(found.a[i] * plane.first + found.b[j] * plane.second)
        samples = TraceSamples()
        samples.add(rows.rows(0, 12), moved.products(rows.rows(0, 12)).nme)  # pyright: ignore
        full = found.surfaces[0].nme_full
        assert full is not None
        assert full.value[i, j] == pytest.approx(samples.frobenius_norm().value, rel=1e-12)


def test_one_probe_has_no_error_and_that_is_noted():
    found = survey(BY_NAME["mlp-gelu"], resolution=2, num_probes=1)
    (surface,) = found.surfaces
    assert surface.gn_full is not None
    assert np.isnan(surface.gn_full.stderr).all()
    assert np.isfinite(surface.gn_full.value).all()
    assert found.notes == ("one probe gives no standard error: null",)
    assert survey(BY_NAME["mlp-gelu"], resolution=2).surfaces[0].gn_full is None


def test_nothing_of_the_model_is_changed():
    model, batches, loss = BY_NAME["cnn-gelu-bn"]
    assert isinstance(model, nn.Module)
    model.train()
    before = deepcopy(model)
    for plane in ("random", "nme"):
        hessdiag.landscape(model, batches, loss=loss, plane=plane, resolution=2, num_probes=2)
    for (name, old), new in zip(
        before.state_dict().items(), model.state_dict().values(), strict=True
    ):
        assert torch.equal(old, new), name
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())


def test_the_batches_are_of_no_account():
    case = BY_NAME["mlp-gelu"]
    x = torch.cat([x for x, _ in case.batches])
    y = torch.cat([y for _, y in case.batches])
    cut = survey(case, resolution=3, num_probes=3).surfaces[0]
    whole = hessdiag.landscape(case.make_model(), [(x, y)], resolution=3, num_probes=3).surfaces[0]
    for name in ("loss", "gn_norm", "nme_norm"):
        np.testing.assert_allclose(getattr(whole, name), getattr(cut, name), rtol=1e-11)


def test_the_result_says_what_it_is():
    seen: list[tuple[float, float]] = []
    found = survey(
        BY_NAME["mlp-gelu"],
        resolution=3,
        radius=0.25,
        params=["fc1.*", "fc2.*"],
        seed=5,
        on_point=lambda now: seen.append((now.done, now.expected)),
    )
    assert seen == [(k, 9) for k in range(1, 10)]
    assert found.a.tolist() == found.b.tolist() == [-0.25, 0.0, 0.25]
    assert (found.num_points, found.num_parameters, found.num_samples) == (9, 49, 9)
    assert (found.plane, found.risk.name) == ("random", "cross-entropy")
    assert found.settings == LandscapeSettings(
        resolution=3,
        radius=0.25,
        num_probes=0,
        seed=5,
        dtype="float64",
        device="cpu",
        bn="eval",
        params=("fc1.*", "fc2.*"),
    )
    assert found.notes == ()
    assert found.cost.seconds > 0
    assert found.cost.peak_memory_bytes > 0


def test_float32_agrees_with_float64():
    case = BY_NAME["mlp-gelu"]
    plane = own_plane(Decomposition(*case).num_parameters)
    exact = survey(case, plane=plane, resolution=np.int64(3)).surfaces[0]
    rounded = survey(case, plane=plane, resolution=3, dtype=torch.float32).surfaces[0]
    for name in ("loss", "gn_norm", "nme_norm"):
        np.testing.assert_allclose(getattr(rounded, name), getattr(exact, name), rtol=1e-4)


@pytest.mark.parametrize("resolution", [2, 5, 25, 161])
@pytest.mark.parametrize("radius", [0.3, 1.0, 1e-3])
def test_axes_are_symmetric_about_an_exact_zero(resolution: int, radius: float):
    axis = surfaces.make_axis(resolution, radius, num_values=3)
    assert len(axis) == resolution
    assert np.array_equal(axis, -axis[::-1])
    assert (axis[0], axis[-1]) == (-radius, radius)
    assert (0.0 in axis) == (resolution % 2 == 1)


# --- what is not finite is a value ---------------------------------------------------------------


class Product(nn.Module):
    """A function of w₁x₁ + w₂x₂ and both weights at 1."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 1, bias=False)
        nn.init.ones_(self.fc.weight)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.fc(x))


def gappy(function: Any) -> Landscape:
    model = Product(function).double()
    x, y = torch.tensor([[1.0, 0.0]]).double(), torch.zeros(1, 1).double()
    names = ("fc.weight[0,0]", "fc.weight[0,1]")
    return hessdiag.landscape(
        model, [(x, y)], loss="mse", weights=names, resolution=5, radius=2.0, num_probes=2
    )


def test_points_where_the_loss_is_not_finite_are_gaps():
    """Of log w₁ for w₁ in {-1, 0, 1, 2, 3}, two columns are not finite."""
    found = gappy(torch.log)
    (surface,) = found.surfaces
    for name in ("loss", "gn_norm", "nme_norm"):
        table = getattr(surface, name)
        assert np.isnan(table[:2]).all()
        assert np.isfinite(table[2:]).all()
    assert surface.gn_full is not None
    assert np.isnan(surface.gn_full.value[:2]).all()
    assert np.isfinite(surface.gn_full.value[2:]).all()
    assert found.notes[0] == "the loss is not finite at 10 of 25 points: null"
    assert len(found.notes) == 3


def test_where_only_the_products_fail_the_loss_remains():
    """|w|^1.5 has a slope at 0 but no curvature."""
    found = gappy(lambda z: z.abs() ** 1.5 + 1)
    (surface,) = found.surfaces
    assert np.isfinite(surface.loss).all()
    assert surface.loss[1, 0] == pytest.approx(1.0)
    assert np.isnan(surface.nme_norm[1]).all()
    assert np.isfinite(surface.nme_norm[2:]).all()
    assert all("norm is not finite at 5 of 25 points" in note for note in found.notes)


def test_norms_beyond_the_largest_number_are_gaps():
    found = gappy(lambda z: torch.exp(z * 100.0))
    (surface,) = found.surfaces
    assert np.isfinite(surface.loss[2]).all()
    assert surface.gn_full is not None
    assert np.isnan(surface.gn_full.value[4]).all()


def test_a_network_that_is_not_finite_itself_is_refused():
    with pytest.raises(InputError, match="the loss is not finite"):
        gappy(lambda z: torch.log(z - 1))


# --- mistakes ------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "resolution": ({"resolution": 1}, "resolution is out of range"),
    "half a point": ({"resolution": 2.5}, "resolution is out of range"),
    "no radius": ({"radius": 0.0}, "radius is out of range"),
    "negative radius": ({"radius": -1.0}, "radius is out of range"),
    "infinite radius": ({"radius": math.inf}, "radius is out of range"),
    "NaN radius": ({"radius": math.nan}, "radius is out of range"),
    "num_probes": ({"num_probes": -1}, "`num_probes` is out of range"),
    "plane": ({"plane": "randm"}, r"unknown plane[\s\S]*did you mean random"),
    "both": ({"plane": "gn", "weights": ("a[0]", "b[0]")}, "a plane of their own"),
    "size": ({"resolution": 10**9}, r"too large for the memory[\s\S]*a resolution of at most \d+"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused_before_any_computation(name: str, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        pytest.fail("it went on")

    monkeypatch.setattr(landscape_module, "Decomposition", fail)
    options, words = BAD[name]
    with pytest.raises(InputError) as caught:
        hessdiag.landscape(nn.Linear(2, 2), [], **options)
    caught.match(words)


def test_the_resolution_that_is_hinted_at_fits(monkeypatch):
    monkeypatch.setattr(surfaces, "available_bytes", lambda _: 100_000)
    with pytest.raises(InputError) as caught:
        surfaces.make_axis(200, 1.0, num_values=3)
    fitting = int(str(caught.value.hint).split()[-1])
    assert len(surfaces.make_axis(fitting, 1.0, num_values=3)) == fitting
    with pytest.raises(InputError):
        surfaces.make_axis(fitting + 1, 1.0, num_values=3)
    monkeypatch.setattr(surfaces, "available_bytes", lambda _: -5)
    with pytest.raises(InputError, match="too large"):
        surfaces.make_axis(2, 1.0, num_values=3)


def test_directions_of_another_network_are_refused():
    with pytest.raises(InputError, match="the direction u does not fit the parameters"):
        survey(BY_NAME["mlp-gelu"], plane=own_plane(7))


def test_a_plane_that_is_a_line_is_refused():
    model = seeded(lambda: nn.Linear(1, 1))
    with pytest.raises(InputError, match="collinear"):
        hessdiag.landscape(model, [(normal(4, 1), normal(4, 1))], loss="mse")


def test_data_that_change_are_refused():
    class Shuffled:
        def __init__(self) -> None:
            self.count = 0

        def __iter__(self):
            self.count += 1
            return iter(split(normal(6, 4, seed=self.count), labels(6), 4, 2))

    with pytest.raises(InputError, match="changed between two passes"):
        hessdiag.landscape(BY_NAME["mlp-gelu"].make_model(), Shuffled(), resolution=2)
