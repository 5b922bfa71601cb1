"""Block Lanczos on matrices of prescribed spectra: its identities, its values, its bounds."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from hessdiag.errors import NotFinite
from hessdiag.linalg.lanczos import LanczosResult, default_tolerance, lanczos
from tests.linalg.matrices import (
    EPS,
    F32,
    F64,
    SPECTRA,
    each_dtype,
    each_spectrum,
    ends,
    low_rank,
    normal,
    run,
    symmetric,
)

SIZE = 240


def exact(matrix: Tensor) -> np.ndarray:
    return np.linalg.eigvalsh(matrix.double().numpy())


def check_bounds(result: LanczosResult, eigenvalues: np.ndarray, dtype: torch.dtype) -> None:
    """Assert that an eigenvalue lies within each residual, up to a few roundings."""
    scale = np.abs(eigenvalues).max()
    for ritz in (*result.top, *result.bottom):
        distance = np.abs(eigenvalues - ritz.value).min()
        assert distance <= ritz.residual + (100 if dtype == F64 else 2) * EPS[dtype] * scale


# the values


@each_dtype
@pytest.mark.parametrize(
    ("size", "block_size"), [(1, 1), (2, 3), (5, 1), (5, 2), (7, 3), (40, 40), (60, 1), (60, 7)]
)
def test_full_depth_finds_all_eigenvalues(size: int, block_size: int, dtype: torch.dtype) -> None:
    eigenvalues = np.linspace(-3.0, 7.0, size) ** 3
    start = normal(block_size, size, dtype=dtype)
    generator = lanczos(start, top_k=size, depth=size, basis_size=size)
    result = run(generator, symmetric(eigenvalues).to(dtype))
    top, bottom = ends(result)
    atol = 20 * EPS[dtype] * 343
    np.testing.assert_allclose(bottom, np.sort(eigenvalues), rtol=0, atol=atol)
    np.testing.assert_array_equal(top, bottom[::-1])
    assert all(ritz.converged and ritz.residual < atol for ritz in result.top)
    assert result.num_steps == -(-size // block_size)


@each_spectrum
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("block_size", "top_k", "basis_size"), [(6, 5, SIZE), (6, 5, 48), (3, 2, 24), (4, 0, 16)]
)
def test_extreme_eigenvalues(
    name: str, block_size: int, top_k: int, basis_size: int, seed: int
) -> None:
    eigenvalues = np.sort(SPECTRA[name])
    start = normal(block_size, SIZE, seed=seed)
    untouched = start.clone()
    generator = lanczos(start, top_k=top_k, basis_size=basis_size, max_steps=400)
    result = run(generator, symmetric(eigenvalues))
    top, bottom = ends(result)
    atol = 1e-8 * np.abs(eigenvalues).max()
    np.testing.assert_allclose(top, eigenvalues[::-1][:top_k], rtol=0, atol=atol)
    np.testing.assert_allclose(bottom, eigenvalues[:top_k], rtol=0, atol=atol)
    assert all(ritz.converged for ritz in (*result.top, *result.bottom))
    assert torch.equal(start, untouched)


@each_spectrum
def test_float32_products_lose_little(name: str) -> None:
    eigenvalues = np.sort(SPECTRA[name])
    generator = lanczos(normal(8, SIZE, dtype=F32), top_k=4, basis_size=64, tolerance=5e-6)
    top, bottom = ends(run(generator, symmetric(eigenvalues).float()))
    atol = 1e-6 * np.abs(eigenvalues).max()
    np.testing.assert_allclose(top, eigenvalues[:-5:-1], rtol=0, atol=atol)
    np.testing.assert_allclose(bottom, eigenvalues[:4], rtol=0, atol=atol)


# bounds and flags


@each_dtype
@each_spectrum
@pytest.mark.parametrize("basis_size", [32, SIZE])
@pytest.mark.parametrize("max_steps", [1, 4, 9, 200])
def test_residuals_bound_and_flags_are_honest(
    name: str, max_steps: int, basis_size: int, dtype: torch.dtype
) -> None:
    matrix = symmetric(SPECTRA[name]).to(dtype)
    start = normal(4, SIZE, seed=3, dtype=dtype)
    generator = lanczos(start, top_k=3, basis_size=basis_size, max_steps=max_steps)
    result = run(generator, matrix)
    check_bounds(result, exact(matrix), dtype)
    values = (*result.top, *result.bottom)
    limit = default_tolerance(dtype) * max(abs(ritz.value) for ritz in values)
    assert [ritz.converged for ritz in values] == [ritz.residual <= limit for ritz in values]
    enough = all(ritz.converged for ritz in values) and 4 * result.num_steps >= 6
    assert result.num_steps == max_steps or (enough and result.num_steps < max_steps)
    if max_steps == 4 and name == "indefinite":
        assert not any(ritz.converged for ritz in values)


def test_an_operator_that_is_not_symmetric_never_counts_as_exact() -> None:
    matrix, noise = symmetric(np.arange(1.0, 31.0)), 1e-4 * normal(30, 30, seed=5)
    result = run(lanczos(normal(3, 30), top_k=3, basis_size=30), matrix + noise)
    assert not any(ritz.converged for ritz in (*result.top, *result.bottom))
    smallest = min(ritz.residual for ritz in result.top)
    assert float((noise - noise.T).norm(dim=1).median()) / 4 < smallest < 1e-2
    of_symmetric_part = exact(matrix + (noise + noise.T) / 2)
    np.testing.assert_allclose(ends(result)[1], of_symmetric_part[:3], rtol=1e-12)


def test_a_single_entry_that_is_not_symmetric_shows_in_every_residual() -> None:
    matrix = torch.diag(torch.arange(1.0, 31.0, dtype=F64))
    matrix[3, 7] = 1e-3
    result = run(lanczos(torch.eye(30, dtype=F64), top_k=15, basis_size=30), matrix)
    assert min(ritz.residual for ritz in (*result.top, *result.bottom)) == pytest.approx(5e-4)


def test_a_looser_tolerance_stops_sooner() -> None:
    matrix, start = symmetric(SPECTRA["indefinite"]), normal(4, SIZE)
    results = [
        run(lanczos(start, top_k=3, basis_size=SIZE, tolerance=tolerance), matrix)
        for tolerance in (1e-2, 1e-6, 1e-10, None)
    ]
    steps = [result.num_steps for result in results]
    assert steps[0] < steps[1] < steps[2] == steps[3]
    for result, limit in zip(results, (1e-2, 1e-6, 1e-10), strict=False):
        assert all(r.residual <= 5 * limit for r in (*result.top, *result.bottom))
    assert (default_tolerance(F32), default_tolerance(F64)) == (1e-3, 1e-10)


@each_dtype
@pytest.mark.parametrize("exponent", [-100, -27, 100])  # 1e-30, 1e-8, 1e+30
@pytest.mark.parametrize("name", ["geometric", "clustered", "one outlier"])
def test_scaling_the_matrix_scales_the_results(
    name: str, exponent: int, dtype: torch.dtype
) -> None:
    matrix, factor = symmetric(SPECTRA[name]).to(dtype), 2.0**exponent
    start = normal(4, SIZE, dtype=dtype)
    plain, scaled = (
        run(lanczos(start, top_k=3, depth=3, basis_size=48), a) for a in (matrix, matrix * factor)
    )
    assert scaled.num_steps == plain.num_steps
    atol = 10 * EPS[dtype] * np.abs(SPECTRA[name]).max()
    for one, other in zip(plain.top + plain.bottom, scaled.top + scaled.bottom, strict=True):
        assert other.value / factor == pytest.approx(one.value, rel=1e-9, abs=atol)
        assert other.residual / factor == pytest.approx(one.residual, rel=1e-3, abs=atol)
        assert other.converged == one.converged
    assert plain.quadrature is not None
    assert scaled.quadrature is not None
    np.testing.assert_allclose(scaled.quadrature.nodes / factor, plain.quadrature.nodes, atol=atol)


# multiplicities


@each_dtype
@pytest.mark.parametrize(("block_size", "top_k"), [(1, 1), (4, 4), (6, 5), (8, 8)])
def test_two_eigenvalues_of_multiplicity_500(
    block_size: int, top_k: int, dtype: torch.dtype
) -> None:
    matrix = symmetric(np.repeat([1.0, 2.0], 500)).to(dtype)
    start = normal(block_size, 1000, dtype=dtype)
    result = run(lanczos(start, top_k=top_k, basis_size=2 * (top_k + block_size)), matrix)
    top, bottom = ends(result)
    np.testing.assert_allclose(top, np.full(top_k, 2.0), atol=10 * EPS[dtype])
    np.testing.assert_allclose(bottom, np.full(top_k, 1.0), atol=10 * EPS[dtype])
    assert all(ritz.converged for ritz in (*result.top, *result.bottom))
    assert result.num_steps == 2


RANK_FIVE = low_rank(3000, [50.0, 50.0, 20.0, 3.0, -7.0])


@each_dtype
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("block_size", "top_k", "basis_size"), [(2, 2, 12), (2, 5, 24), (4, 4, 16), (6, 6, 36)]
)
def test_rank_five_in_dimension_3000(
    block_size: int, top_k: int, basis_size: int, seed: int, dtype: torch.dtype
) -> None:
    start = normal(block_size, 3000, seed=seed, dtype=dtype)
    result = run(lanczos(start, top_k=top_k, basis_size=basis_size), RANK_FIVE.to(dtype))
    top, bottom = ends(result)
    atol = 50 * (10 * EPS[dtype])
    np.testing.assert_allclose(top, [50.0, 50, 20, 3, 0, 0][:top_k], rtol=0, atol=atol)
    np.testing.assert_allclose(bottom, [-7.0, 0, 0, 0, 0, 0][:top_k], rtol=0, atol=atol)
    assert all(ritz.converged for ritz in (*result.top, *result.bottom))
    assert result.num_steps <= 6  # exhaustion is noticed: no wandering about in the rounding
    check_bounds(result, np.array([50.0, 20.0, 3.0, 0.0, -7.0]), dtype)


def test_the_seed_matters_within_the_residuals_only() -> None:
    eigenvalues = np.r_[np.zeros(200), np.arange(1.0, 31.0), -np.arange(1.0, 11.0)]
    start = low_rank(SIZE, [1.0, 1.0])[:6]  # dependent rows, the seed replaces four of them
    results = [
        run(lanczos(start, top_k=5, basis_size=72, seed=seed), symmetric(eigenvalues))
        for seed in (0, 1, 2)
    ]
    for one, other in pairwise(results):
        assert one != other
        for a, b in zip(one.top + one.bottom, other.top + other.bottom, strict=True):
            assert abs(a.value - b.value) <= a.residual + b.residual + 100 * EPS[F64] * 30


def test_the_projection_is_diagonalised_where_it_is_asked_about_and_not_by_numpy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NumPy's threads spin beside the next product."""
    sizes: list[int] = []

    def watched(matrix: Tensor) -> object:
        sizes.append(len(matrix))
        return diagonalise(matrix)

    diagonalise = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", watched)
    monkeypatch.delattr(np.linalg, "eigh")
    steps = lanczos(normal(2, SIZE), top_k=2, depth=9, basis_size=SIZE)
    result = run(steps, symmetric(SPECTRA["geometric"]))
    assert sizes == [2 * step for step in range(9, result.num_steps + 1)]


# edges


@each_dtype
@pytest.mark.parametrize("block_size", [1, 4])
def test_the_zero_matrix(block_size: int, dtype: torch.dtype) -> None:
    start = normal(block_size, 50, dtype=dtype)
    generator = lanczos(start, top_k=3, depth=2, basis_size=16)
    result = run(generator, torch.zeros(50, 50, dtype=dtype))
    assert [ritz.value for ritz in (*result.top, *result.bottom)] == [0.0] * 6
    assert all(ritz.converged and ritz.residual == 0 for ritz in result.top + result.bottom)
    assert result.quadrature is not None
    np.testing.assert_allclose(result.quadrature.weights.sum(axis=1), 1.0, rtol=1e-6)


@each_dtype
@pytest.mark.parametrize("rows", [[0, 0], [0, 1, 0, 1], [0, 1, 1, 2, 0]])
def test_dependent_starting_rows_are_replaced(rows: Sequence[int], dtype: torch.dtype) -> None:
    scales = torch.logspace(0, 6, len(rows), dtype=dtype)[:, None]
    start = normal(3, SIZE, dtype=dtype)[list(rows)] * scales
    matrix = symmetric(SPECTRA["near-multiple"]).to(dtype)
    tolerance = 1e-5 if dtype == F32 else 1e-10
    generator = lanczos(start, top_k=2, depth=4, basis_size=60, tolerance=tolerance)
    result = run(generator, matrix)
    atol = 4e-5 if dtype == F32 else 1e-9
    np.testing.assert_allclose(ends(result), [[4.0, 3 + 1e-6], [-1.0, -1.0]], rtol=0, atol=atol)
    assert result.quadrature is not None
    np.testing.assert_allclose(result.quadrature.weights.sum(axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("start", [torch.eye(30)[:1], torch.eye(30)[:3]], ids=len)
def test_a_start_of_eigenvectors_is_left_behind(start: Tensor) -> None:
    matrix = torch.diag(torch.arange(30, dtype=F64))
    result = run(lanczos(start.double(), top_k=2, basis_size=14), matrix)
    np.testing.assert_allclose(ends(result), [[29.0, 28.0], [0.0, 1.0]], atol=1e-8)


@pytest.mark.parametrize("basis_size", [SIZE - 1, SIZE, 10 * SIZE])
def test_a_basis_of_about_the_dimension(basis_size: int) -> None:
    eigenvalues = np.sort(SPECTRA["indefinite"])
    generator = lanczos(normal(7, SIZE), top_k=60, basis_size=basis_size)
    top, bottom = ends(run(generator, symmetric(eigenvalues)))
    np.testing.assert_allclose(top, eigenvalues[::-1][:60], atol=1e-8)
    np.testing.assert_allclose(bottom, eigenvalues[:60], atol=1e-8)


# what cannot be multiplied


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_products_that_are_not_finite_are_refused(at: int, value: float) -> None:
    generator, matrix = lanczos(normal(2, 30), top_k=1, basis_size=12), symmetric(np.arange(30.0))
    vectors = next(generator)
    for _ in range(at):
        vectors = generator.send(vectors @ matrix)
    with pytest.raises(NotFinite, match="a product is not finite"):
        generator.send(vectors @ matrix * value)


@pytest.mark.parametrize("rank", [0, 1, 5, 30])
def test_no_precision_draws_directions_for_ever(rank: int) -> None:
    """In bfloat16 no random direction is orthogonal to the basis to its rounding."""
    matrix = low_rank(30, np.arange(1.0, rank + 1.0)).bfloat16()
    start = normal(4, 30, dtype=torch.bfloat16)
    result = run(lanczos(start, top_k=2, basis_size=30, max_steps=20), matrix)
    assert result.num_steps <= 20
    assert result.top[0].value == pytest.approx(rank, abs=0.1 * rank)


@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("refine", [False, True])
def test_vectors_are_those_of_the_largest_eigenvalues(top_k: int, refine: bool) -> None:
    matrix = symmetric(SPECTRA["geometric"])
    values, vectors = np.linalg.eigh(matrix.numpy())
    start = normal(top_k + 1, SIZE)
    generator = lanczos(start, top_k=top_k, basis_size=40, with_vectors=True, refine=refine)
    result = run(generator, matrix)
    assert result.top_vectors is not None
    overlaps = np.abs(result.top_vectors.numpy() @ vectors[:, ::-1][:, :top_k])
    np.testing.assert_allclose(overlaps, np.eye(top_k), atol=1e-7)
    assert result.top[0].value == pytest.approx(values[-1])


# one end alone


@each_dtype
@each_spectrum
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("basis_size", [SIZE, 36])
def test_one_end_alone(name: str, sign: int, basis_size: int, dtype: torch.dtype) -> None:
    eigenvalues = np.sort(SPECTRA[name])
    matrix = symmetric(eigenvalues).to(dtype)
    start = normal(6, SIZE, seed=3, dtype=dtype)
    generator = lanczos(start, top_k=5, ends=(sign,), basis_size=basis_size, max_steps=400)
    result = run(generator, matrix)
    values, other = (result.top, result.bottom)[::sign]
    assert other == ()
    truth = np.sort(exact(matrix))[::-sign][:5]
    atol = (1e-8 if dtype == F64 else 2e-3) * np.abs(eigenvalues).max()
    np.testing.assert_allclose([ritz.value for ritz in values], truth, rtol=0, atol=atol)
    slack = 100 * EPS[dtype] * np.abs(eigenvalues).max()
    for ritz, wanted in zip(values, truth, strict=True):
        assert ritz.converged
        assert ritz.interval is not None
        assert ritz.interval[0] - slack <= wanted <= ritz.interval[1] + slack


@pytest.mark.parametrize("sign", [1, -1])
def test_one_end_takes_no_more_steps_than_both(sign: int) -> None:
    eigenvalues = np.concatenate([np.linspace(-1.0, 1.0, SIZE - 6), sign * np.arange(10.0, 16.0)])
    matrix = symmetric(eigenvalues)
    taken = {
        ends: run(
            lanczos(normal(4, SIZE), top_k=3, ends=ends, basis_size=60, max_steps=400), matrix
        ).num_steps
        for ends in ((1, -1), (sign,))
    }
    assert taken[sign,] < taken[1, -1]  # the far end stands alone, the near one is dense


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("sign", [1, -1])
def test_one_end_of_a_small_matrix(size: int, sign: int) -> None:
    eigenvalues = np.arange(size) - 1.0
    generator = lanczos(
        normal(min(3, size), size), top_k=min(2, size), ends=(sign,), basis_size=size
    )
    result = run(generator, symmetric(eigenvalues))
    values = (result.top, result.bottom)[::sign][0]
    truth = np.sort(eigenvalues)[::-sign][: min(2, size)]
    np.testing.assert_allclose([ritz.value for ritz in values], truth, rtol=0, atol=1e-12)
