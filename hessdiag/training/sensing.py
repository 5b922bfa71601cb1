"""Matrix sensing: gradient descent, weight noise and NSO recover a matrix of low rank.

Of X = U*U*ᵀ one knows y_i = ⟨A_i, X⟩ for fewer matrices A_i than X has entries, and descends
``f(U) = (1/4m) Σ (⟨A_i, UUᵀ⟩ − y_i)²`` in U ∈ R^{d×d}. Many U fit; those of a small tr ∇²f have a
UUᵀ of small nuclear norm, like X. Noise finds them, plain descent does not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessdiag.errors import InputError, unknown
from hessdiag.linalg import devices
from hessdiag.progress import Progress, Watch
from hessdiag.results import CheckpointOrigin, DataOrigin, Seconds
from hessdiag.seeds import stream
from hessdiag.training.sensing_result import (
    TITLES,
    Array,
    Curves,
    Sensing,
    Settings,
)

METHODS = ("gd", "weight-noise", "nso")
_NUM_LOGGED = 200


def sensing(settings: Settings, on_progress: Watch | None = None) -> Sensing:
    """Descend f by gd, weight noise and NSO at once, from the same U₀ with the same noise.

    The paper's relative errors after 5,000 steps are 1.31, 0.050 and 0.024; with the defaults and
    seeds 0 to 2 they are 1.30 to 1.51, 0.050 to 0.054 and 0.023 to 0.025. The A_i are Gaussian,
    made symmetric as ½(A + Aᵀ), and U* is standard normal; that, and the factor ¼ in f, which gives
    the learning rate its meaning, follow the authors' published code.

    Cost: per step one pass over m d(d+1)/2 numbers there and one back, for all methods together;
    with the defaults about 45 s on two cores.

    Args:
        settings: of the example.
        on_progress: called at the logged steps with the steps done and to do.

    Returns:
        Sensing; where a descent diverges its curves are NaN or infinite.

    Raises:
        InputError: a setting is out of range.

    Source: Zhang, Li and Ju (2024), the matrix-sensing example.
    """
    _check(settings)
    start = time.monotonic()
    device = devices.resolve(settings.device)
    problem = Problem.of(settings, device)
    noise = torch.Generator().manual_seed(stream(settings.seed, "sensing", "noise"))
    shape = (settings.num_pairs, *problem.initial.shape)
    u = problem.initial.repeat(len(METHODS), 1, 1)
    num_logged = min(settings.steps, _NUM_LOGGED) + 1
    logged = np.linspace(0, settings.steps, num_logged).round().astype(np.int64)
    rows: list[Array] = []
    for step in range(settings.steps + 1):
        if step == logged[len(rows)]:
            rows.append(torch.stack(problem.measure(u)).double().cpu().numpy())
            if on_progress is not None:
                on_progress(Progress(step, settings.steps, f"step {step}"))
        if step < settings.steps:
            drawn = torch.randn(shape, generator=noise, dtype=torch.float64)
            u = u - settings.lr * _directions(problem, u, settings.sigma * drawn.to(u))
    table = np.stack(rows, axis=-1)
    curves = tuple(Curves(method, *table[:, row]) for row, method in enumerate(METHODS))
    return Sensing(
        checkpoint=CheckpointOrigin(num_parameters=settings.dimension**2),
        data=DataOrigin(num_samples=settings.num_measurements),
        settings=replace(settings, device=str(device)),
        steps=tuple(logged.tolist()),
        methods=curves,
        cost=Seconds(time.monotonic() - start),
        notes=tuple(_diverged(logged, curves)),
    )


def _diverged(steps: NDArray[np.int64], methods: Sequence[Curves]) -> Iterator[str]:
    """Name the descents that diverged."""
    for curves in methods:
        broken = ~np.isfinite([curves.loss, curves.relative_error, curves.trace]).all(0)
        if broken.any():
            step = steps[broken.argmax()]
            yield f"{TITLES[curves.name]} has diverged by step {step:,}: null"


@dataclass(frozen=True)
class Problem:
    """Matrices, measurements and where to start.

    A symmetric matrix is held by its upper triangle, the entries beside the diagonal times √2, so
    that products of matrices are those of vectors. So written, a symmetrised Gaussian matrix is a
    standard normal vector.

    Attributes:
        matrices: the A_i, ``(m, d(d+1)/2)``.
        measurements: the y_i, ``(m,)``.
        target: X, ``(d(d+1)/2,)``.
        mean_square: (1/m) Σ A_i², ``(d, d)``.
        initial: U₀, ``(d, d)``.
    """

    matrices: Tensor
    measurements: Tensor
    target: Tensor
    mean_square: Tensor
    initial: Tensor

    @classmethod
    def of(cls, settings: Settings, device: torch.device) -> Problem:
        """Draw it, the same whatever the dtype and the device."""
        d = settings.dimension

        def normal(name: str, *shape: int) -> Tensor:
            draws = torch.Generator().manual_seed(stream(settings.seed, "sensing", name))
            drawn = torch.randn(shape, generator=draws, dtype=torch.float64)
            return drawn.to(device, devices.DTYPES[settings.dtype])

        factor = normal("target", d, settings.rank)
        matrices = normal("matrices", settings.num_measurements, d * (d + 1) // 2)
        target = _packed(factor @ factor.T)
        whole = _unpacked(matrices, d)
        mean_square = torch.einsum("kij,kjl->il", whole, whole) / len(matrices)
        return cls(matrices, matrices @ target, target, mean_square, normal("initial", d, d))

    def gradient(self, u: Tensor) -> Tensor:
        """Compute ∇f(U) = (1/m) Σ r_i A_i U, r_i = ⟨A_i, UUᵀ⟩ − y_i, for each U ``(k, d, d)``."""
        return self._mean_residual(self._residuals(u @ u.mT)) @ u

    def measure(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute f, relative error and tr ∇²f for each U ``(k, d, d)``, ``(k,)`` each.

        ``tr ∇²f = (2/m) Σ ‖A_i U‖² + (d/m) Σ r_i tr A_i``: the Gauss-Newton part and the NME.
        """
        x = u @ u.mT
        residuals = self._residuals(x)
        loss = residuals.square().mean(1) / 4
        error = (_packed(x) - self.target).norm(dim=1) / self.target.norm()
        nme = u.shape[-1] * self._mean_residual(residuals).diagonal(dim1=1, dim2=2).sum(1)
        return loss, error, 2 * (self.mean_square * x).sum((1, 2)) + nme

    def _residuals(self, x: Tensor) -> Tensor:
        return _packed(x) @ self.matrices.T - self.measurements

    def _mean_residual(self, residuals: Tensor) -> Tensor:
        """Compute (1/m) Σ r_i A_i."""
        return _unpacked(residuals @ self.matrices / len(self.matrices), len(self.initial))


def _directions(problem: Problem, u: Tensor, noise: Tensor) -> Tensor:
    """Compute what each method descends, all from one product with the matrices."""
    gd, one_sided, pairs = u
    moved = torch.cat([gd[None], one_sided + noise[:1], pairs + noise, pairs - noise])
    gradients = problem.gradient(moved)
    return torch.stack([gradients[0], gradients[1], gradients[2:].mean(0)])


def _packed(matrices: Tensor) -> Tensor:
    """Take the upper triangles of ``(…, d, d)`` as ``(…, d(d+1)/2)``."""
    row, column, scale = _triangle(matrices, matrices.shape[-1])
    return matrices[..., row, column] * scale


def _unpacked(triangles: Tensor, d: int) -> Tensor:
    """Invert :func:`_packed`."""
    row, column, scale = _triangle(triangles, d)
    matrices = triangles.new_empty(*triangles.shape[:-1], d, d)
    matrices[..., row, column] = matrices[..., column, row] = triangles / scale
    return matrices


def _triangle(like: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """List rows and columns of an upper triangle, and what its entries are scaled by."""
    row, column = torch.triu_indices(d, d, device=like.device)
    return row, column, (1 + (row != column)).to(like).sqrt()


def _check(settings: Settings) -> None:
    for name in ("dimension", "rank", "num_measurements", "steps", "num_pairs"):
        if getattr(settings, name) < 1:
            raise InputError(
                f"`{name}` is too small", got=getattr(settings, name), wanted="at least 1"
            )
    if settings.rank > settings.dimension:
        raise InputError(
            "the rank is out of range", got=settings.rank, wanted=f"at most {settings.dimension}"
        )
    for name in ("lr", "sigma"):
        value = getattr(settings, name)
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} is out of range", got=value, wanted="a number, at least 0")
    if settings.dtype not in devices.DTYPES:
        raise unknown("dtype", settings.dtype, devices.DTYPES)
