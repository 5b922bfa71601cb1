"""Operators: products one by one, as a matrix, and behind scipy's interface."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh, minres
from torch import Tensor

from hessdiag.errors import InputError
from hessdiag.linalg.operator import MatrixOperator
from tests.linalg.matrices import normal, symmetric

SIZE = 30
each_dtype = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)], ids=str
)


def operator(dtype: torch.dtype = torch.float64) -> MatrixOperator:
    return MatrixOperator(symmetric(np.linspace(-2.0, 4.0, SIZE)).to(dtype))


@each_dtype
def test_a_product_is_the_matrix_times_the_vector(dtype: torch.dtype, tolerance: float) -> None:
    a, vector = operator(dtype), normal(SIZE, dtype=dtype)
    product = a.matvec(vector)
    assert product.shape == (SIZE,)
    assert product.dtype == a.dtype == dtype
    torch.testing.assert_close(product, a.matrix @ vector, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("num_rows", [0, 1, 7])
def test_rows_are_applied_one_by_one(num_rows: int) -> None:
    a, rows = operator(), normal(num_rows, SIZE)
    products = a.matmat(rows)
    assert products.shape == rows.shape
    for row, product in zip(rows, products, strict=True):
        torch.testing.assert_close(a.matvec(row), product)


@pytest.mark.parametrize("shape", [(), (SIZE - 1,), (SIZE + 1,), (1, SIZE), (SIZE, 1), (2, SIZE)])
def test_a_vector_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="does not fit") as caught:
        operator().matvec(torch.zeros(shape))
    assert str(shape) in str(caught.value)
    assert f"({SIZE},)" in str(caught.value)


@pytest.mark.parametrize("block_size", [1, 7, SIZE, 64])
@each_dtype
def test_dense_is_the_matrix(dtype: torch.dtype, tolerance: float, block_size: int) -> None:
    a = operator(dtype)
    dense = a.dense(block_size=block_size)
    assert dense.dtype == dtype
    torch.testing.assert_close(dense, a.matrix, rtol=0, atol=tolerance)


@each_dtype
def test_scipy_sees_the_same_matrix(dtype: torch.dtype, tolerance: float) -> None:
    a = operator(dtype)
    wrapped, matrix = a.to_scipy(), a.matrix.numpy()
    assert isinstance(wrapped, LinearOperator)
    assert wrapped.shape == (SIZE, SIZE)
    assert wrapped.dtype == matrix.dtype
    one, many = normal(SIZE, dtype=dtype).numpy(), normal(SIZE, 3, dtype=dtype).numpy()
    for right in (one, one[:, None], many, np.asfortranarray(many), many[::-1, ::2]):
        for product in (wrapped @ right, wrapped.T @ right, wrapped.H @ right):
            assert product.shape == right.shape
            assert product.dtype == matrix.dtype
            np.testing.assert_allclose(product, matrix @ right, rtol=0, atol=10 * tolerance)


def test_scipy_has_several_columns_applied_at_once() -> None:
    class Counting(MatrixOperator):
        def matmat(self, rows: Tensor) -> Tensor:
            counts.append(len(rows))
            return super().matmat(rows)

    counts: list[int] = []
    wrapped = Counting(operator().matrix).to_scipy()
    many = normal(SIZE, 3).numpy()
    assert (wrapped @ many).shape == (wrapped.H @ many).shape == many.shape
    assert counts == [3, 3]


@each_dtype
def test_scipy_finds_the_eigenvalues(dtype: torch.dtype, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    found = eigsh(
        operator(dtype).to_scipy(),
        k=6,
        which="BE",
        return_eigenvectors=False,
        v0=rng.standard_normal(SIZE),
    )
    exact = np.linspace(-2.0, 4.0, SIZE)
    np.testing.assert_allclose(np.sort(found), np.r_[exact[:3], exact[-3:]], atol=100 * tolerance)


def test_scipy_solves_with_it() -> None:
    a, right = operator(), normal(SIZE).numpy()
    solution, failed = minres(a.to_scipy(), right, rtol=1e-12)
    assert failed == 0
    np.testing.assert_allclose(a.matrix.numpy() @ solution, right, atol=1e-9)


def test_numpy_vectors_of_another_dtype_are_converted() -> None:
    a = operator(torch.float32)
    product = a.to_scipy() @ np.arange(SIZE)
    expected = a.matrix.double().numpy() @ np.arange(SIZE)
    np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-4)
