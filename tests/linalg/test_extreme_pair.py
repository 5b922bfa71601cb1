"""One extreme eigenpair against dense spectra, and what it costs from where it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hessdiag.errors import NotFinite
from hessdiag.linalg.extreme_pair import ExtremePair, extreme_pair
from tests.cases import normal


def found(matrix: Tensor, start: Tensor, **options: bool | float) -> ExtremePair:
    search = extreme_pair(start, **options)  # pyright: ignore[reportArgumentType]
    block = next(search)
    try:
        while True:
            block = search.send(block @ matrix)
    except StopIteration as end:
        return end.value


def wigner(size: int, seed: int) -> Tensor:
    matrix = normal(size, size, seed=seed)
    return matrix + matrix.T


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_the_pair_is_one_and_its_residual_bounds_its_error(seed: int, largest: bool) -> None:
    matrix = wigner(120, seed)
    pair = found(matrix, normal(1, 120, seed=seed + 50), largest=largest)
    wanted = torch.linalg.eigvalsh(matrix)[-1 if largest else 0]
    assert abs(pair.value - float(wanted)) <= pair.residual
    assert pair.residual <= 1e-3 * abs(pair.value)
    residual = matrix @ pair.vector - pair.value * pair.vector
    assert float(residual.norm()) == pytest.approx(pair.residual, rel=1e-6)
    assert float(pair.vector.norm()) == pytest.approx(1)


def test_a_small_change_costs_a_few_products() -> None:
    matrix, near = wigner(200, 1), 1e-3 * wigner(200, 2)
    cold = found(matrix, normal(1, 200, seed=3))
    warm = found(matrix + near, torch.stack([cold.vector, normal(200, seed=4)]))
    wanted = torch.linalg.eigvalsh(matrix + near)[-1]
    assert abs(warm.value - float(wanted)) <= warm.residual
    assert warm.num_products <= 8 < cold.num_products


def test_an_eigenvalue_that_overtakes_is_seen() -> None:
    diagonal = torch.linspace(-1, 1, 300).double()
    diagonal[:2] = torch.tensor([5.0, 6.0])
    before = torch.zeros(300).double().index_fill(0, torch.tensor(0), 1.0)
    values = [
        found(diagonal.diag(), torch.stack([before, normal(300, seed=seed)])).value
        for seed in range(20)
    ]
    assert sum(value > 5.5 for value in values) >= 18


@pytest.mark.parametrize("matrix", [torch.eye(4), torch.zeros(4, 4), torch.ones(1, 1)], ids=str)
def test_spaces_that_end_are_no_failure(matrix: Tensor) -> None:
    pair = found(matrix.double(), normal(2, len(matrix)))
    assert pair.value == pytest.approx(float(matrix[0, 0]))
    assert pair.num_products <= len(matrix)


def test_what_is_not_finite_stops() -> None:
    with pytest.raises(NotFinite):
        found(torch.full((3, 3), torch.nan).double(), normal(1, 3))
