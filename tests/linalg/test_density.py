"""Quadratures of the spectral measure, and the densities smoothed from them."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessdiag.linalg.density import Density, smooth
from hessdiag.linalg.lanczos import Quadrature, lanczos
from hessdiag.linalg.trace import Probes
from tests.linalg.matrices import (
    EPS,
    F64,
    SPECTRA,
    each_dtype,
    each_spectrum,
    low_rank,
    normal,
    run,
    symmetric,
)

SIZE = 240


def quadrature(
    matrix: Tensor, start: Tensor, depth: int, *, top_k: int = 0, basis_size: int | None = None
) -> Quadrature:
    basis_size = basis_size or max(len(start) * depth, 2 * top_k + 2 * len(start))
    result = run(lanczos(start, top_k=top_k, depth=depth, basis_size=basis_size), matrix)
    assert result.quadrature is not None
    return result.quadrature


def rademacher(count: int, size: int = SIZE, seed: int = 0) -> Tensor:
    return Probes(size, seed=seed, dtype=F64, device=torch.device("cpu")).rows(0, count)


def kernel_sum(eigenvalues: NDArray[np.float64], density: Density) -> NDArray[np.float64]:
    """Evaluate the Gaussian mixture of the exact eigenvalues on the density's grid."""
    width = density.bandwidth
    kernel = np.exp(-0.5 * ((density.grid[:, None] - eigenvalues) / width) ** 2)
    return kernel.mean(axis=1) / (width * np.sqrt(2 * np.pi))


# quadratures


@each_dtype
@each_spectrum
@pytest.mark.parametrize(("block_size", "depth"), [(1, 1), (1, 6), (4, 3), (5, 8)])
def test_weights_are_a_distribution_for_each_probe(
    name: str, block_size: int, depth: int, dtype: torch.dtype
) -> None:
    matrix, start = symmetric(SPECTRA[name]).to(dtype), normal(block_size, SIZE, dtype=dtype)
    found = quadrature(matrix, start, depth)
    assert found.nodes.shape == (block_size * depth,)
    assert found.weights.shape == (block_size, block_size * depth)
    assert bool((np.diff(found.nodes) >= 0).all())
    assert bool((found.weights >= 0).all())
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0, rtol=10 * EPS[dtype])


@each_spectrum
@pytest.mark.parametrize("top_k", [0, 3])
@pytest.mark.parametrize(("block_size", "depth"), [(1, 1), (1, 5), (3, 2), (4, 4)])
def test_polynomials_of_degree_up_to_2m_minus_1_are_exact(
    name: str, block_size: int, depth: int, top_k: int
) -> None:
    scale = np.abs(SPECTRA[name]).max()
    matrix = symmetric(SPECTRA[name]) / scale
    start = normal(block_size, SIZE) * torch.logspace(-3, 3, block_size, dtype=F64)[:, None]
    found = quadrature(matrix, start, depth, top_k=top_k)  # restarts later on do not touch it
    power = start
    for degree in range(2 * depth + 1):
        exact = ((power * start).sum(dim=1) / (start * start).sum(dim=1)).numpy()
        error = np.abs(found.weights @ found.nodes**degree - exact).max()
        if degree < 2 * depth:
            assert error < 1e-13
        elif name == "indefinite":
            assert error > 1e-6  # so the degrees below are no accident
        power = power @ matrix


def test_dependent_probes_keep_their_measures() -> None:
    """Probes 0 and 2 are parallel, probe 3 is a sum: block quadrature is exact all the same."""
    matrix, start = symmetric(SPECTRA["indefinite"]), normal(4, SIZE)
    start[2], start[3] = -2 * start[0], start[0] + start[1]
    found = quadrature(matrix, start, 3)
    np.testing.assert_allclose(found.weights[2], found.weights[0], atol=1e-14)
    power = start
    for degree in range(6):
        exact = ((power * start).sum(dim=1) / (start * start).sum(dim=1)).numpy()
        np.testing.assert_allclose(found.weights @ found.nodes**degree, exact, rtol=1e-12)
        power = power @ matrix


@each_dtype
def test_an_exhausted_space_ends_the_quadrature_exactly(dtype: torch.dtype) -> None:
    matrix, start = symmetric(np.arange(1.0, 8.0)).to(dtype), normal(3, 7, dtype=dtype)
    found = quadrature(matrix, start, 50, basis_size=7)
    np.testing.assert_allclose(found.nodes, np.arange(1.0, 8.0), rtol=50 * EPS[dtype])
    eigenvectors = torch.linalg.eigh(matrix.double())[1]
    exact = (start.double() @ eigenvectors) ** 2 / start.double().square().sum(dim=1)[:, None]
    np.testing.assert_allclose(found.weights, exact.numpy(), atol=50 * EPS[dtype])


def test_few_distinct_eigenvalues_are_resolved_by_few_steps() -> None:
    matrix, start = low_rank(400, [5.0, 5.0, -3.0]), rademacher(4, 400)
    found = quadrature(matrix, start, 4)  # goes on past the exhausted space
    exact = ((start @ matrix) * start).sum(dim=1).numpy() / 400
    np.testing.assert_allclose(found.weights @ found.nodes, exact, atol=1e-13)
    at_five = np.isclose(found.nodes, 5.0)
    projector = low_rank(400, [1.0, 1.0, 0.0])
    exact = ((start @ projector) * start).sum(dim=1).numpy() / 400
    np.testing.assert_allclose(found.weights[:, at_five].sum(axis=1), exact, atol=1e-13)


@each_spectrum
def test_all_of_a_basis_as_probes_is_exact(name: str) -> None:
    eigenvalues = np.sort(SPECTRA[name])
    found = quadrature(symmetric(eigenvalues), torch.eye(SIZE, dtype=F64), 1)
    atol = 1e-13 * np.abs(eigenvalues).max()
    np.testing.assert_allclose(found.nodes, eigenvalues, rtol=0, atol=atol)
    np.testing.assert_allclose(found.weights.mean(axis=0), 1 / SIZE, rtol=1e-12)
    density = smooth(found)
    np.testing.assert_allclose(
        density.values, kernel_sum(eigenvalues, density), rtol=1e-6, atol=1e-300
    )


def test_no_depth_no_quadrature() -> None:
    result = run(lanczos(normal(2, SIZE), top_k=1, basis_size=16), symmetric(SPECTRA["geometric"]))
    assert result.quadrature is None


# densities


@each_spectrum
@pytest.mark.parametrize("count", [1, 6])
def test_a_density_is_the_quadrature_smoothed(name: str, count: int) -> None:
    found = quadrature(symmetric(SPECTRA[name]), rademacher(count), 8)
    density = smooth(found)
    integrate = np.trapezoid
    assert integrate(density.values, density.grid) == pytest.approx(1.0, abs=1e-5)
    mean = float(found.weights.mean(axis=0) @ found.nodes)
    spread = density.grid[-1] - density.grid[0]
    moment = float(integrate(density.values * density.grid, density.grid))
    assert moment == pytest.approx(mean, abs=1e-5 * spread)
    square = float(integrate(density.values * (density.grid - mean) ** 2, density.grid))
    variance = float(found.weights.mean(axis=0) @ (found.nodes - mean) ** 2)
    assert square == pytest.approx(variance + density.bandwidth**2, rel=1e-3)
    assert bool((density.values >= 0).all())
    assert density.num_probes == count
    np.testing.assert_array_equal(density.nodes, found.nodes)
    np.testing.assert_allclose(density.weights, found.weights.mean(axis=0))


@pytest.mark.parametrize("name", ["indefinite", "geometric", "near-multiple"])
@pytest.mark.parametrize("seed", range(3))
def test_a_density_matches_the_smoothed_spectrum(name: str, seed: int) -> None:
    eigenvalues = SPECTRA[name]
    found = quadrature(symmetric(eigenvalues), rademacher(8, seed=seed), 20)
    density = smooth(found, bandwidth=float(np.ptp(eigenvalues)) / 20)
    assert density.stderr is not None
    exact = kernel_sum(eigenvalues, density)
    error = np.abs(density.values - exact)
    assert bool((error <= 5 * density.stderr + 1e-3 * exact.max()).all())
    assert density.stderr.max() < 0.5 * exact.max()  # the probes do say something


BULKS = {
    "semicircle": lambda size, rng: np.linalg.eigvalsh(symmetric_noise(size, rng)),
    "uniform": lambda size, rng: rng.uniform(-1, 1, size),
    "with outliers": lambda size, rng: np.r_[rng.exponential(1, size), -9, 20, 30],
    "two": lambda size, rng: np.r_[rng.normal(-1, 0.05, size), rng.normal(1, 0.1, size)],
}


def symmetric_noise(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    noise = rng.standard_normal((size, size))
    return (noise + noise.T) / np.sqrt(2 * size)


@pytest.mark.parametrize("depth", [8, 20])
@pytest.mark.parametrize("name", BULKS)
def test_the_exact_smoothed_density_lies_within_two_standard_errors(name: str, depth: int) -> None:
    """On all but a tenth of the bulk, in the mean over seeds; nor is that error far too large."""
    shares, scaled = list[float](), list[NDArray[np.float64]]()
    for seed in range(8):
        eigenvalues = BULKS[name](400, np.random.default_rng(seed))
        size = len(eigenvalues)
        start = normal(6, size, seed=100 + seed)
        found = quadrature(torch.diag(torch.from_numpy(eigenvalues)), start, depth)
        density = smooth(found)
        exact = kernel_sum(eigenvalues, density)
        bulk = exact > 0.02 * exact.max()
        assert density.stderr is not None
        errors = (np.abs(density.values - exact) / density.stderr)[bulk]
        shares.append(float(np.mean(errors > 2)))
        scaled.append(errors)
    assert np.mean(shares) < 0.1, shares
    assert np.concatenate(scaled).std() > 0.2


def test_a_width_that_the_depth_does_not_resolve_has_an_error_that_says_so() -> None:
    """Between the nodes there is nothing, at them too much."""
    eigenvalues = np.linspace(-1, 1, 2000)
    found = quadrature(torch.diag(torch.from_numpy(eigenvalues)), normal(6, 2000), 10)
    for share in (0.2, 0.5, 1.0):
        density = smooth(found, bandwidth=share * 2 / 10)
        error = np.abs(density.values - kernel_sum(eigenvalues, density))
        assert density.stderr is not None
        assert float(np.mean(error > 2 * density.stderr)) < 0.05


def test_of_rows_that_are_not_gaussian_the_error_is_that_over_the_rows() -> None:
    nodes, weights = np.array([-1.0, 0.0, 2.0]), np.array([[0.2, 0.3, 0.5], [0.4, 0.1, 0.5]])
    density = smooth(Quadrature(nodes, weights))
    curves = [smooth(Quadrature(nodes, row[None])).values for row in weights]
    np.testing.assert_allclose(density.values, np.mean(curves, axis=0))
    assert density.stderr is not None
    np.testing.assert_allclose(density.stderr, np.std(curves, axis=0, ddof=1) / np.sqrt(2))
    assert smooth(Quadrature(nodes, weights[:1])).stderr is None


@pytest.mark.parametrize("num_points", [64, 512])
@pytest.mark.parametrize("bandwidth", [0.5, 3.0])
def test_grid_and_bandwidth_are_as_asked(bandwidth: float, num_points: int) -> None:
    found = Quadrature(np.array([-1.0, 2.0]), np.array([[0.25, 0.75]]))
    density = smooth(found, bandwidth=bandwidth, num_points=num_points)
    assert density.bandwidth == bandwidth
    assert density.grid.shape == density.values.shape == (num_points,)
    steps = np.diff(density.grid)
    np.testing.assert_allclose(steps, steps[0])
    assert density.grid[0] <= -1 - 4 * bandwidth
    assert density.grid[-1] >= 2 + 4 * bandwidth
    peak = np.interp(2.0, density.grid, density.values)
    tail = 0.25 * np.exp(-0.5 * (3 / bandwidth) ** 2)
    assert peak == pytest.approx((0.75 + tail) / (bandwidth * np.sqrt(2 * np.pi)), rel=1e-2)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_default_bandwidth_is_what_the_depth_resolves(scale: float) -> None:
    nodes, weights = np.array([-scale, 2 * scale]), np.full((1, 2), 0.5)
    assert smooth(Quadrature(nodes, weights)).bandwidth == pytest.approx(0.03 * scale)
    assert smooth(Quadrature(nodes, weights, 20, 9)).bandwidth == pytest.approx(0.12 * scale)


@pytest.mark.parametrize("value", [0.0, 1e-8, -3.0, 1e8])
def test_a_single_eigenvalue_is_smoothed_too(value: float) -> None:
    density = smooth(Quadrature(np.full(3, value), np.full((2, 3), 1 / 3)))
    assert density.bandwidth > 0
    assert np.isfinite(density.values).all()
    assert np.trapezoid(density.values, density.grid) == pytest.approx(1.0, abs=1e-3)
    assert density.grid[0] < value < density.grid[-1]
