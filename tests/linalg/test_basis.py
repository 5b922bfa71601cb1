"""The Krylov basis of Lanczos: its identities, its memory, what it leaves alone."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hessdiag.linalg import space
from hessdiag.linalg.krylov import KrylovBasis
from hessdiag.linalg.lanczos import lanczos
from tests.linalg.matrices import (
    EPS,
    SPECTRA,
    each_dtype,
    each_spectrum,
    ends,
    normal,
    run,
    symmetric,
)

SIZE = 240


@each_dtype
@each_spectrum
@pytest.mark.parametrize(("block_size", "capacity"), [(1, 12), (4, 24), (6, 80), (7, SIZE)])
def test_the_basis_holds_its_identities(
    name: str, block_size: int, capacity: int, dtype: torch.dtype
) -> None:
    matrix = symmetric(SPECTRA[name]).to(dtype)
    scale = float(np.abs(SPECTRA[name]).max())
    tolerance = 300 * EPS[dtype]  # relative to the scale
    basis = KrylovBasis(normal(block_size, SIZE, dtype=dtype), capacity, seed=0)
    storage = basis.rows.data_ptr()
    for _ in range(60):
        basis.absorb(basis.pending @ matrix)
        dense = matrix.double() / basis.unit
        theta, vectors = np.linalg.eigh(basis.projection())
        for restarted in (False, True):
            end = basis.done + basis.num_pending
            rows, coupling = basis.rows[:end].double(), basis.raw[: basis.done, basis.done : end]
            q, pending = rows[: basis.done], rows[basis.done :]
            gram = rows @ rows.T - torch.eye(end)
            assert gram.abs().max() < tolerance
            assert np.abs((q @ dense @ q.T).numpy() - basis.projection()).max() < tolerance * scale
            rest = q @ dense - torch.from_numpy(basis.projection()) @ q
            rest -= torch.from_numpy(coupling) @ pending
            assert rest.norm(dim=1).max() < tolerance * scale
            if not restarted:
                ritz = torch.from_numpy(vectors.T) @ q
                residuals = (ritz @ dense - torch.from_numpy(theta)[:, None] * ritz).norm(dim=1)
                given = np.linalg.norm(basis.coupling(vectors), axis=1)
                assert np.abs(residuals.numpy() - given).max() < tolerance * scale
                assert basis.rounding() < 10 * tolerance * scale
            if restarted or not basis.is_full:
                break
            basis.restart(vectors, theta, num_wanted=2)
        if not basis.num_pending:
            assert basis.done == capacity == SIZE
            break
    assert len(basis.rows) <= min(capacity + block_size, SIZE)
    assert basis.rows.data_ptr() == storage  # nothing was allocated beside it


@pytest.mark.parametrize("num_wanted", [2, 8, 12])
def test_a_restart_keeps_the_outermost_ritz_values(num_wanted: int) -> None:
    matrix = symmetric(SPECTRA["indefinite"])
    basis = KrylovBasis(normal(4, SIZE), 20, seed=0)
    while not basis.is_full:
        basis.absorb(basis.pending @ matrix)
    theta, vectors = np.linalg.eigh(basis.projection())
    basis.restart(vectors, theta, num_wanted)
    kept, half = np.linalg.eigvalsh(basis.projection()), num_wanted // 2
    np.testing.assert_allclose(np.r_[kept[:half], kept[-half:]], np.r_[theta[:half], theta[-half:]])
    assert num_wanted <= len(kept) <= 20 - 4


def test_the_start_is_known_on_eigenvectors_however_often_the_basis_restarts() -> None:
    """The rows that restarts let go are known by the residual relation at an eigenvalue."""
    matrix, start = symmetric(SPECTRA["indefinite"]), normal(3, SIZE)
    values, eigenvectors = np.linalg.eigh(matrix.numpy())
    basis = KrylovBasis(start, 18, seed=0)
    for _ in range(20):
        basis.absorb(basis.pending @ matrix)
        theta, vectors = np.linalg.eigh(basis.projection())
        for at in (0, 1, -1):
            along = basis.start_along(values[at] / basis.unit)
            q = basis.rows[: basis.done].numpy() @ eigenvectors[:, at]
            exact = start.numpy() @ eigenvectors[:, at]
            np.testing.assert_allclose(along @ q, exact, atol=1e-9)
        if basis.is_full:
            basis.restart(vectors, theta, num_wanted=4)
    assert len(basis.restarts) > 3


@pytest.mark.parametrize("block_size", [1, 2])
def test_restarts_of_the_smallest_basis_keep_all_that_is_wanted(block_size: int) -> None:
    eigenvalues = np.r_[np.linspace(-1, 1, 230), np.arange(2.0, 7), -np.arange(2.0, 7)]
    generator = lanczos(normal(block_size, SIZE), top_k=5, basis_size=10 + 2 * block_size)
    result = run(generator, symmetric(eigenvalues))
    np.testing.assert_allclose(ends(result), [[6.0, 5, 4, 3, 2], [-6.0, -5, -4, -3, -2]])
    assert result.num_steps < 60


@pytest.mark.parametrize(("block_size", "top_k", "basis_size"), [(4, 3, 14), (3, 0, 6), (1, 1, 4)])
def test_memory_is_the_basis_and_one_block(block_size: int, top_k: int, basis_size: int) -> None:
    generator = lanczos(normal(block_size, SIZE), top_k=top_k, basis_size=basis_size, max_steps=50)
    blocks: list[Tensor] = []
    run(generator, symmetric(SPECTRA["indefinite"]), look=lambda block, _: blocks.append(block))
    assert all(len(block) == block_size for block in blocks)
    stores = [block.untyped_storage() for block in blocks]
    ((_, nbytes),) = {(store.data_ptr(), store.nbytes()) for store in stores}
    assert nbytes <= (basis_size + block_size) * SIZE * 8  # every block is a view of one store


def test_columns_reduced_in_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def values() -> np.ndarray:
        generator = lanczos(normal(4, SIZE), top_k=4, depth=5, basis_size=32, max_steps=200)
        return np.r_[ends(run(generator, symmetric(SPECTRA["near-multiple"])))]

    whole = values()
    monkeypatch.setattr(space, "CHUNK", 37)  # does not divide the dimension
    np.testing.assert_allclose(values(), whole, atol=1e-9)


def test_chunks_are_added_up_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "CHUNK", 1)
    row = torch.ones(1, 1001)
    row[0, 0] = 4096.0  # its square is 2²⁴, where float32 no longer counts by ones
    assert space.FLAT.gram(row, row).item() == 2.0**24 + 1000


def test_the_products_received_are_left_alone() -> None:
    received: list[tuple[Tensor, Tensor]] = []
    generator = lanczos(normal(3, SIZE), top_k=1, basis_size=24, max_steps=12)
    run(
        generator,
        symmetric(SPECTRA["indefinite"]),
        look=lambda _, products: received.append((products, products.clone())),
    )
    assert len(received) == 12
    assert all(torch.equal(after, before) for after, before in received)
