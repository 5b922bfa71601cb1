"""Algorithms see their vectors through the space alone: another inner product, another problem."""

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

from hessdiag.linalg.lanczos import lanczos
from hessdiag.linalg.space import Array, FlatSpace
from hessdiag.linalg.trace import TraceSamples
from tests.linalg.matrices import F64, ends, normal, run, symmetric

SIZE = 60
MASSES = torch.linspace(0.5, 3.0, SIZE, dtype=F64)


class Weighted(FlatSpace):
    """R^n with the inner product ``xᵀMy``, M diagonal."""

    def dots(self, left: Tensor, right: Tensor, at: slice | None = None) -> Array:
        return super().dots(left * MASSES, right, at)

    def gram(self, left: Tensor, right: Tensor) -> Array:
        return super().gram(left * MASSES, right)


def test_lanczos_in_another_inner_product_solves_the_generalised_problem() -> None:
    stiffness = symmetric(np.linspace(-2.0, 5.0, SIZE))
    generator = lanczos(normal(4, SIZE), top_k=3, basis_size=24, max_steps=200, space=Weighted())
    top, bottom = ends(run(generator, stiffness / MASSES))  # rows: M⁻¹K from the right
    exact = linalg.eigh(stiffness.numpy(), np.diag(MASSES.numpy()), eigvals_only=True)
    np.testing.assert_allclose(top, exact[::-1][:3], rtol=1e-9)
    np.testing.assert_allclose(bottom, exact[:3], rtol=1e-9)


def test_samples_are_taken_in_the_space() -> None:
    rows = normal(2, SIZE).sign()
    samples = TraceSamples({"head": slice(0, 5)}, Weighted())
    samples.add(rows, rows)
    mass = MASSES.numpy()
    np.testing.assert_allclose(samples.freeze().quadratic_forms, [mass.sum()] * 2)
    assert samples.layer_traces()["head"].value == mass[:5].sum()
