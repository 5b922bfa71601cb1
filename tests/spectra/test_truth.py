"""The whole front door against dense float64 truth on small networks."""

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hessdiag
from hessdiag import Report
from hessdiag.linalg.lanczos import gaussian_rows
from hessdiag.linalg.trace import Probes, TraceSamples
from hessdiag.parts import PARTS
from tests.cases import BY_NAME, labels, mlp, normal, seeded, split
from tests.oracles import targets, trainable, truth_of

NAMES = (
    "mlp-gelu",
    "mlp-relu",
    "mlp-tanh-mse",
    "mlp-silu-smoothing",
    "mlp-gelu-robust",
    "cnn-relu-bn",
    "residual",
    "shared",
    "unused",
    "attention",
    "segmentation",
)
each_case = pytest.mark.parametrize("name", NAMES)
each_part = pytest.mark.parametrize("part", PARTS)
TOP_K = 5
NUM_PROBES = 16
SAMPLED = ("gn", "nme")  # semi-definite and indefinite


@cache
def report_of(name: str) -> Report:
    model, batches, loss = BY_NAME[name]
    return hessdiag.spectrum(
        model, batches, loss=loss, num_probes=NUM_PROBES, top_k=TOP_K, per_layer=True
    )


def matrix(name: str, part: str) -> Tensor:
    return getattr(truth_of(name), part)


def scale(name: str) -> float:
    """Return the largest |λ| of the three parts."""
    return max(float(torch.linalg.matrix_norm(matrix(name, part), 2)) for part in PARTS)


def numbers(report: Report) -> dict[str, Any]:
    """All that a report says but for what it cost."""
    return {key: value for key, value in json.loads(report.to_json()).items() if key != "cost"}


@each_case
@each_part
def test_extreme_eigenvalues(name: str, part: str):
    found, true = report_of(name).parts[part], torch.linalg.eigvalsh(matrix(name, part)).numpy()
    top, bottom = ([ritz.value for ritz in end] for end in (found.top, found.bottom))
    np.testing.assert_allclose(top, true[::-1][:TOP_K], rtol=0, atol=1e-8 * scale(name))
    np.testing.assert_allclose(bottom, true[:TOP_K], rtol=0, atol=1e-8 * scale(name))


@each_part
def test_extreme_eigenvalues_from_a_basis_that_must_restart(part: str):
    name = "mlp-gelu"
    model, batches, loss = BY_NAME[name]
    report = hessdiag.spectrum(
        model, batches, loss=loss, num_probes=2, density=False, top_k=3, basis_size=20, block_size=3
    )
    true = torch.linalg.eigvalsh(matrix(name, part)).numpy()
    assert report.settings.basis_size == 20 < len(true)
    assert report.cost.passes[f"{part}.lanczos"] > 7  # the basis is full after seven blocks
    found = report.parts[part]
    assert all(ritz.converged for ritz in (*found.top, *found.bottom))
    values = [ritz.value for ritz in (*found.bottom, *reversed(found.top))]
    wanted = [*true[:3], *true[-3:]]
    np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-8 * scale(name))


@each_case
@each_part
def test_residuals_bound_the_error(name: str, part: str):
    found, true = report_of(name).parts[part], torch.linalg.eigvalsh(matrix(name, part)).numpy()
    for ritz in (*found.top, *found.bottom):
        nearest = np.abs(true - ritz.value).min()
        assert nearest <= ritz.residual + 1e-12 * scale(name)
        assert ritz.converged == (ritz.residual <= 1e-10 * np.abs(true).max())


@each_case
@each_part
def test_traces_and_norms_lie_within_four_standard_errors(name: str, part: str):
    found, true = report_of(name).parts[part], matrix(name, part)
    rounding = 1e-12 * scale(name) * len(true)
    for estimate, value in (
        (found.trace, float(true.trace())),
        (found.frobenius_norm, float(true.norm())),
    ):
        assert estimate.num_probes == NUM_PROBES
        assert estimate.stderr is not None
        assert estimate.ci95 is not None
        assert abs(estimate.value - value) <= 4 * estimate.stderr + rounding
        assert estimate.ci95[0] <= estimate.value <= estimate.ci95[1]


@each_case
@each_part
def test_layer_traces(name: str, part: str):
    found, true = report_of(name).parts[part], matrix(name, part).diagonal()
    rounding = 1e-12 * scale(name) * len(true)
    parameters = trainable(BY_NAME[name].make_model())
    assert found.layers is not None
    assert list(found.layers) == list(parameters)
    blocks = true.split([p.numel() for p in parameters.values()])
    for layer, block in zip(found.layers.values(), blocks, strict=True):
        assert layer.stderr is not None
        assert abs(layer.value - float(block.sum())) <= 4 * layer.stderr + rounding
    total = sum(layer.value for layer in found.layers.values())
    assert total == pytest.approx(found.trace.value, abs=rounding)


@each_case
def test_the_traces_add_up_because_the_probes_are_shared(name: str):
    parts = report_of(name).parts
    total = parts["gn"].trace.value + parts["nme"].trace.value
    assert parts["hessian"].trace.value == pytest.approx(total, abs=1e-12 * scale(name) * 64)


@each_case
@each_part
def test_the_density_is_one_and_has_the_mean_of_its_probes(name: str, part: str):
    density = report_of(name).parts[part].density
    assert density is not None
    assert np.trapezoid(density.values, density.grid) == pytest.approx(1, abs=1e-5)
    assert density.weights.sum() == pytest.approx(1, abs=1e-12)
    assert (density.values >= 0).all()
    true = matrix(name, part)
    rows = gaussian_rows(TOP_K + 1, len(true), seed=0, dtype=true.dtype, device=true.device)
    rows /= rows.norm(dim=1, keepdim=True)
    mean = float((rows @ true * rows).sum() / len(rows))  # Σ w λ is that of uᵀAu
    assert density.weights @ density.nodes == pytest.approx(mean, abs=1e-10 * scale(name))


@each_case
def test_gradient_loss_and_checks(name: str):
    report, truth = report_of(name), truth_of(name)
    model, batches, _ = BY_NAME[name]
    assert report.loss == pytest.approx(truth.loss, rel=1e-12)
    assert report.gradient_norm == pytest.approx(float(truth.gradient.norm()), rel=1e-11)
    unit = truth.gradient / truth.gradient.norm()
    for part in PARTS:
        curvature = float(unit @ matrix(name, part) @ unit)
        assert report.rayleigh[part] == pytest.approx(curvature, abs=1e-11 * scale(name))
    assert report.num_parameters == len(truth.gradient)
    assert report.num_samples == len(targets(batches))
    assert report.decomposition_residual < 1e-12
    assert report.symmetry_residual is not None
    assert report.symmetry_residual < 1e-12
    y = targets(batches)
    if y.is_floating_point():
        assert report.accuracy is None
    else:
        z = torch.cat([model(x) for x, _ in batches])
        right = (z.argmax(1) == y)[y >= 0]
        assert report.accuracy == pytest.approx(float(right.double().mean()), rel=1e-15)


@each_case
def test_another_batching_gives_the_same_results(name: str):
    model, batches, loss = BY_NAME[name]
    x, y = torch.cat([x for x, _ in batches]), targets(batches)
    first, tolerance = report_of(name), 1e-9 * scale(name)
    other = hessdiag.spectrum(
        model, split(x, y, len(y)), loss=loss, num_probes=NUM_PROBES, top_k=TOP_K, per_layer=True
    )
    assert other.loss == pytest.approx(first.loss, rel=1e-12)
    for part in PARTS:
        a, b = first.parts[part], other.parts[part]
        assert b.trace.value == pytest.approx(a.trace.value, abs=tolerance)
        assert b.frobenius_norm.value == pytest.approx(a.frobenius_norm.value, abs=tolerance)
        for end in ("top", "bottom"):
            values = [[ritz.value for ritz in getattr(found, end)] for found in (a, b)]
            np.testing.assert_allclose(values[1], values[0], rtol=0, atol=tolerance)


def test_the_same_seed_repeats_bit_for_bit_and_another_does_not():
    def run(seed: int) -> dict[str, Any]:
        model, batches, loss = BY_NAME["cnn-gelu-bn"]
        report = hessdiag.spectrum(
            model, batches, loss=loss, num_probes=6, top_k=2, per_layer=True, seed=seed
        )
        return numbers(report)

    first = run(3)
    assert run(3) == first
    assert first["parts"]["gn"]["trace"] != run(4)["parts"]["gn"]["trace"]


def test_surroundings_do_not_move_the_results():
    torch.manual_seed(0)
    model, batches, loss = BY_NAME["mlp-gelu"]
    first = hessdiag.spectrum(model, batches, loss=loss, num_probes=4)
    torch.manual_seed(1)
    with torch.no_grad():
        second = hessdiag.spectrum(model, batches, loss=loss, num_probes=4)
    assert numbers(first) == numbers(second)


def test_float32_is_what_dtype_asks_for():
    model, batches, loss = BY_NAME["mlp-gelu"]
    report = hessdiag.spectrum(model, batches, loss=loss, dtype=torch.float32, num_probes=8)
    assert report.dtype == "float32"
    assert next(model.parameters()).dtype == torch.float64
    for part in PARTS:
        true = float(torch.linalg.eigvalsh(matrix("mlp-gelu", part))[-1])
        assert report.parts[part].top[0].value == pytest.approx(true, abs=1e-5 * scale("mlp-gelu"))


def test_a_linear_network_has_no_modeling_error():
    model = seeded(lambda: nn.Linear(4, 3))
    report = hessdiag.spectrum(model, split(normal(9, 4), labels(9), 5, 4), top_k=2)
    nme = report.parts["nme"]
    assert nme.trace.value == nme.frobenius_norm.value == 0
    assert [ritz.value for ritz in (*nme.top, *nme.bottom)] == [0] * 4
    assert report.parts["gn"].trace.value == report.parts["hessian"].trace.value > 0


def test_only_the_chosen_parameters_count():
    model, batches, loss = BY_NAME["mlp-gelu"]
    report = hessdiag.spectrum(model, batches, loss=loss, params="fc1.*", top_k=2)
    size = sum(p.numel() for p in model.get_submodule("fc1").parameters())
    assert report.num_parameters == size
    assert report.params == ("fc1.*",)
    for part in PARTS:
        true = torch.linalg.eigvalsh(matrix("mlp-gelu", part)[:size, :size])
        top = [ritz.value for ritz in report.parts[part].top]
        np.testing.assert_allclose(top, true.flip(0)[:2], rtol=0, atol=1e-8 * scale("mlp-gelu"))


@pytest.fixture(scope="module")
def coverage() -> dict[tuple[str, str, int], float]:
    """Share of 1,000 seeds whose interval holds the truth, by part, quantity and probes."""
    seeds, hits = range(1000), dict[tuple[str, str, int], float]()
    parts = {part: matrix("mlp-gelu", part) for part in SAMPLED}
    for seed in seeds:
        size = len(parts["gn"])
        probes = Probes(size, seed=seed, dtype=torch.float64, device=torch.device("cpu"))
        rows = probes.rows(0, 64)
        for part, true in parts.items():
            products, samples = rows @ true, TraceSamples()
            for begin, end in ((0, 16), (16, 64)):
                samples.add(rows[begin:end], products[begin:end])
                for kind, estimate, value in (
                    ("trace", samples.trace(), float(true.trace())),
                    ("norm", samples.frobenius_norm(), float(true.norm())),
                ):
                    assert estimate.ci95 is not None
                    hit = estimate.ci95[0] <= value <= estimate.ci95[1]
                    key = part, kind, end
                    hits[key] = hits.get(key, 0) + hit / len(seeds)
    return hits


@pytest.mark.parametrize("part", SAMPLED)
@pytest.mark.parametrize("kind", ["trace", "norm"])
@pytest.mark.parametrize(("num_probes", "least"), [(16, 0.90), (64, 0.93)])
def test_the_interval_covers_the_truth(coverage, part: str, kind: str, num_probes: int, least):
    assert coverage[part, kind, num_probes] >= least


def test_an_mlp_without_batches_of_one_size_is_weighed_by_example():
    """The mean over batches would differ: it is wrong by more than the tolerance here."""
    model = seeded(lambda: mlp(nn.GELU, 4, 5, 3))
    x, y = normal(9, 4), labels(9)
    uneven = hessdiag.spectrum(model, split(x, y, 8, 1), num_probes=2, top_k=0, density=False)
    whole = hessdiag.spectrum(model, [(x, y)], num_probes=2, top_k=0, density=False)
    assert uneven.loss == pytest.approx(whole.loss, rel=1e-13)
    assert uneven.parts["nme"].trace.value == pytest.approx(
        whole.parts["nme"].trace.value, rel=1e-10
    )
