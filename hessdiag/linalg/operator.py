"""Symmetric linear operators on flat vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessdiag.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


class Operator(ABC):
    """A symmetric operator A on R^n, known by its products.

    Attributes:
        size: the dimension n.
        dtype: floating type of its vectors.
        device: where its vectors live.
    """

    size: int
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def matmat(self, rows: Tensor) -> Tensor:
        """Apply A to each of the rows ``(k, n)``; returns ``(k, n)``."""

    def matvec(self, vector: Tensor) -> Tensor:
        """Apply A to one vector ``(n,)``; returns ``(n,)``.

        Raises:
            InputError: ``vector`` is not of shape (n,).
        """
        if vector.shape != (self.size,):
            raise InputError(
                "the vector does not fit the operator",
                got=f"shape {tuple(vector.shape)}",
                wanted=f"({self.size},)",
            )
        return self.matmat(vector[None])[0]

    def dense(self, *, block_size: int = 64) -> Tensor:
        """Build the matrix ``(n, n)``. Cost: n products, n² numbers of memory."""
        eye = torch.eye(self.size, dtype=self.dtype, device=self.device)
        return torch.cat([self.matmat(rows) for rows in eye.split(block_size)])

    def to_scipy(self) -> LinearOperator:
        """Wrap as a ``scipy.sparse.linalg.LinearOperator`` on numpy vectors of the same dtype."""
        from scipy.sparse.linalg import LinearOperator

        def columns(matrix: NDArray[np.floating]) -> NDArray[np.floating]:
            rows = torch.tensor(np.array(matrix.T, order="C")).to(self.device, self.dtype)
            return self.matmat(rows).T.cpu().numpy()

        def column(vector: NDArray[np.floating]) -> NDArray[np.floating]:
            return columns(vector.reshape(-1, 1))[:, 0]

        return LinearOperator(
            shape=(self.size, self.size),
            dtype=torch.empty((), dtype=self.dtype).numpy().dtype,
            matvec=column,
            rmatvec=column,
            matmat=columns,
            rmatmat=columns,
        )


class MatrixOperator(Operator):
    """The operator of an explicit symmetric matrix ``(n, n)``."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.size, self.dtype, self.device = matrix.shape[0], matrix.dtype, matrix.device

    def matmat(self, rows: Tensor) -> Tensor:
        """Apply the matrix to the rows ``(k, n)``."""
        return rows @ self.matrix
