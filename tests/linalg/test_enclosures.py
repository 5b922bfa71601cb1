"""Intervals of the k-th eigenvalue: held on spectra made to be missed, no wider than need be."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessdiag.linalg import enclosures
from hessdiag.linalg.lanczos import LanczosResult, gaussian_rows, lanczos
from tests.linalg.matrices import EPS, F32, F64, each_dtype, symmetric

SPECTRA = {
    "wigner": lambda n, rng: np.sin(rng.uniform(-1.57, 1.57, n)),
    "cluster": lambda n, rng: np.r_[1 + 1e-5 * rng.standard_normal(9), rng.uniform(-0.9, 0.9, n)],
    "pairs": lambda n, rng: np.repeat(rng.standard_normal(n), 2),
    "near ties": lambda n, rng: np.r_[1, 1 - 10.0 ** rng.uniform(-6, -1), np.linspace(-1, 0.9, n)],
    "one end 1e4 times the other": lambda n, rng: np.r_[
        1e4 * rng.random(8), -rng.random(3), [0] * n
    ],
    "multiple": lambda n, _: np.r_[[1.0] * 9, np.linspace(-1, 0.9, n)],
    "low rank": lambda n, rng: np.r_[rng.standard_normal(7), [0] * n],
    "decay": lambda n, rng: rng.choice([-1, 1], n) * 10.0 ** -np.linspace(0, 9, n),
    "sparse": lambda n, rng: rng.standard_normal(n) * (rng.random(n) < 0.1),
}
"""Eigenvalues of which the first n are taken."""


def problem(name: str, rng: np.random.Generator, *, sparse: bool) -> Tensor:
    size = int(rng.choice([1, 2, 3, 7, 20, 60, 150]))
    eigenvalues = SPECTRA[name](size, rng)[:size] * 10.0 ** rng.choice([-25, 0, 15])
    if sparse:  # its eigenvectors are unit vectors
        return torch.diag(torch.from_numpy(rng.permutation(eigenvalues)))
    return symmetric(eigenvalues, seed=int(rng.integers(1 << 30)))


def solve(matrix: Tensor, seed: int, *, dtype: torch.dtype = F64, **options: int) -> LanczosResult:
    """Multiply in the type of the vectors, as a network does."""
    size = len(matrix)
    block = min(options.pop("block_size"), size)
    start = gaussian_rows(block, size, seed=seed, dtype=dtype, device=torch.device("cpu"))
    generator = lanczos(start, seed=seed, refine=dtype == F32, **options)
    vectors = next(generator)
    while True:
        try:
            vectors = generator.send(vectors @ matrix.to(vectors.dtype))
        except StopIteration as stop:
            return stop.value


def missed(result: LanczosResult, eigenvalues: NDArray[np.float64]) -> list[str]:
    """Name what lies outside of what is said of it."""
    slack = 20 * EPS[F64] * np.abs(eigenvalues).max()
    wrong: list[str] = []
    for end, true in (("top", eigenvalues[::-1]), ("bottom", eigenvalues)):
        for index, ritz in enumerate(getattr(result, end)):
            assert ritz.interval is not None
            low, high = ritz.interval
            if not low - slack <= true[index] <= high + slack:
                wrong.append(f"{end} {index}: {true[index]} not in {ritz.interval}")
            if np.abs(true - ritz.value).min() > ritz.residual + slack:
                wrong.append(f"{end} {index}: no eigenvalue within {ritz.residual} of {ritz.value}")
    return wrong


@each_dtype
@pytest.mark.parametrize("name", SPECTRA)
def test_intervals_hold_the_kth_eigenvalue_and_residuals_some(
    name: str, dtype: torch.dtype
) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        matrix = problem(name, rng, sparse=seed % 3 == 0).to(dtype).double()
        size, top_k = len(matrix), int(rng.choice([1, 3, 5]))
        top_k = min(top_k, size)
        block = top_k + 1
        basis = min(int(rng.choice([2 * top_k + 2 * block, 20 * block])), size)
        steps = int(rng.choice([2, 8, 100]))
        result = solve(
            matrix,
            seed,
            dtype=dtype,
            block_size=block,
            top_k=top_k,
            basis_size=basis,
            max_steps=steps,
        )
        assert not missed(result, np.linalg.eigvalsh(matrix.numpy())), (seed, size, steps)


def test_a_direction_that_no_row_of_signs_sees_is_not_missed() -> None:
    """(1, −1)/√2 is orthogonal to a row of signs with chance ½; its eigenvalue is the largest."""
    matrix = torch.diag(torch.linspace(0.0, 0.4, 30, dtype=F64))
    matrix[:2, :2] = torch.tensor([[0.25, -0.25], [-0.25, 0.25]])
    for seed in range(20):
        top = solve(matrix, seed, dtype=F32, block_size=2, top_k=1, basis_size=8).top[0]
        assert top.interval is not None
        assert top.value == pytest.approx(0.5, rel=1e-4)
        assert top.interval[0] <= 0.5 + 1e-12


def test_isolated_eigenvalues_are_known_to_rounding() -> None:
    eigenvalues = np.r_[np.linspace(-0.1, 0.1, 150), 3, 4, 5, 5, -2, -7]
    for dtype in (F32, F64):
        matrix = symmetric(eigenvalues).to(dtype).double()
        result = solve(matrix, 0, dtype=dtype, block_size=4, top_k=3, basis_size=60)
        for ritz in (*result.top, *result.bottom[:2]):
            assert ritz.interval is not None
            assert ritz.interval[1] - ritz.interval[0] < (1e-9 if dtype == F32 else 1e-12)


def test_refined_values_are_those_of_float64() -> None:
    matrix = symmetric(np.r_[np.linspace(-1, 1, 100), 30, 31, -9])
    exact = np.linalg.eigvalsh(matrix.numpy())
    result = solve(matrix, 0, dtype=F32, block_size=3, top_k=2, basis_size=40)  # float32 differs
    for ritz, value in zip(
        (*result.top, result.bottom[0]), (*exact[:-3:-1], exact[0]), strict=True
    ):
        assert ritz.value == pytest.approx(value, rel=1e-11)
        assert ritz.residual < 1e-4


@pytest.mark.parametrize(("block_size", "num_directions"), [(1, 1), (2, 1), (3, 3), (6, 2), (6, 5)])
def test_a_gaussian_block_sees_directions_as_often_as_it_says(
    block_size: int, num_directions: int
) -> None:
    alpha, draws = 0.05, 4000
    blocks = np.random.default_rng(0).standard_normal((draws, block_size, num_directions))
    least = np.linalg.svd(blocks, compute_uv=False)[:, -1]
    share = np.mean(least < enclosures.visible(block_size, num_directions, alpha))
    assert share <= alpha + 4 * np.sqrt(alpha / draws)
    if num_directions == 1:
        assert share == pytest.approx(alpha, abs=4 * np.sqrt(alpha / draws))


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_outer_bounds_fail_no_more_often_than_they_say(
    confidence: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a confidence that can be seen to fail, against an eigenvalue seldom seen so early."""
    monkeypatch.setattr(enclosures, "CONFIDENCE", confidence)
    eigenvalues = np.r_[np.linspace(-1, 1, 199), 1.3]
    matrix = symmetric(eigenvalues)
    held = []
    for seed in range(200):
        result = solve(matrix, seed, block_size=1, top_k=1, basis_size=12, max_steps=4)
        assert result.top[0].interval is not None
        held.append(result.top[0].interval[1] >= 1.3)
    assert np.mean(held) >= confidence - 0.05
