"""Matrix sensing against whole matrices, autograd and the paper's figures."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hessdiag.errors import InputError
from hessdiag.seeds import stream
from hessdiag.training.sensing import METHODS, Problem, Sensing, Settings, sensing
from tests.cases import normal

CPU = torch.device("cpu")
TINY = Settings(5, 2, 9, lr=0.01, steps=4, num_pairs=2, seed=3, dtype="float64", device="cpu")
SMALL = Settings(20, 1, 80, lr=0.0125, steps=2000, dtype="float64", device="cpu")
TOLERANCE = 1e-12


def whole(triangles: Tensor, d: int) -> Tensor:
    """Write symmetric matrices ``(…, d, d)`` out entry by entry."""
    matrices = torch.empty(*triangles.shape[:-1], d, d, dtype=triangles.dtype)
    pairs = [(i, j) for i in range(d) for j in range(i, d)]
    for index, (i, j) in enumerate(pairs):
        entry = triangles[..., index] / (1 if i == j else math.sqrt(2))
        matrices[..., i, j] = matrices[..., j, i] = entry
    return matrices


def risk(problem: Problem, u: Tensor) -> Tensor:
    """Compute f with whole matrices."""
    d = len(u)
    matrices, target = whole(problem.matrices, d), whole(problem.target, d)
    residuals = torch.einsum("kij,ij->k", matrices, u @ u.T - target)
    return residuals.square().mean() / 4


def test_the_target_has_the_rank_asked_for() -> None:
    problem = Problem.of(TINY, CPU)
    eigenvalues = torch.linalg.eigvalsh(whole(problem.target, 5))
    assert int((eigenvalues > 1e-9).sum()) == 2
    assert float(eigenvalues.min()) > -1e-12


def test_the_matrices_are_symmetrised_gaussians() -> None:
    problem = Problem.of(replace(TINY, num_measurements=4000), CPU)
    matrices = whole(problem.matrices, 5)
    squares = matrices.square()
    variance = torch.full((5, 5), 0.5).double().fill_diagonal_(1.0)
    for found, wanted in ((matrices, torch.zeros(())), (squares, variance)):
        stderr = found.std(0) / 4000**0.5
        assert bool(((found.mean(0) - wanted).abs() < 4 * stderr).all())


def test_gradient_loss_and_trace_are_those_of_autograd() -> None:
    problem, points = Problem.of(TINY, CPU), normal(3, 5, 5, seed=1)
    gradients, (losses, errors, traces) = problem.gradient(points), problem.measure(points)
    target = whole(problem.target, 5)
    for index, u in enumerate(points):
        assert float(losses[index]) == pytest.approx(float(risk(problem, u)), rel=TOLERANCE)
        error = float((u @ u.T - target).norm() / target.norm())
        assert float(errors[index]) == pytest.approx(error, rel=TOLERANCE)
        slope = torch.autograd.functional.jacobian(lambda u: risk(problem, u), u)
        torch.testing.assert_close(gradients[index], slope, rtol=TOLERANCE, atol=TOLERANCE)
        hessian = torch.autograd.functional.hessian(lambda u: risk(problem, u), u)
        trace = float(hessian.reshape(25, 25).trace())
        assert float(traces[index]) == pytest.approx(trace, rel=TOLERANCE)


def test_each_method_descends_as_it_should() -> None:
    found, problem = sensing(TINY), Problem.of(TINY, CPU)
    draws = torch.Generator().manual_seed(stream(TINY.seed, "sensing", "noise"))

    def slope(u: Tensor) -> Tensor:
        return torch.autograd.functional.jacobian(lambda u: risk(problem, u), u)

    us = dict.fromkeys(METHODS, problem.initial)
    for step in range(TINY.steps + 1):
        for method, u in us.items():
            loss = found.curves[method].loss[step]
            assert loss == pytest.approx(float(risk(problem, u)), rel=1e-10)
        noise = TINY.sigma * torch.randn(2, 5, 5, generator=draws, dtype=torch.float64)
        pairs = [slope(us["nso"] + sign * e) for e in noise for sign in (1, -1)]
        descent = {
            "gd": slope(us["gd"]),
            "weight-noise": slope(us["weight-noise"] + noise[0]),
            "nso": torch.stack(pairs).mean(0),
        }
        us = {method: u - TINY.lr * descent[method] for method, u in us.items()}


def test_noise_recovers_what_plain_descent_does_not() -> None:
    curves = sensing(SMALL).curves
    last = {method: curves[method].relative_error[-1] for method in METHODS}
    assert max(last["nso"], last["weight-noise"]) < 0.2 < 1.0 < last["gd"]
    assert curves["gd"].loss[-1] < 1e-6 < curves["nso"].loss[-1]
    assert curves["nso"].trace[-1] < 0.5 * curves["gd"].trace[-1]


@pytest.mark.slow
def test_the_paper_s_figures() -> None:
    curves = sensing(Settings(device="cpu")).curves
    last = {method: curves[method].relative_error[-1] for method in METHODS}
    assert last["gd"] == pytest.approx(1.31, rel=0.1)
    assert last["weight-noise"] == pytest.approx(0.050, rel=0.1)
    assert last["nso"] == pytest.approx(0.024, rel=0.1)


def errors(found: Sensing) -> np.ndarray:
    return np.array([found.curves[method].relative_error for method in METHODS])


def test_without_noise_there_is_one_method() -> None:
    gd, *others = errors(sensing(replace(TINY, sigma=0.0)))
    for other in others:
        np.testing.assert_allclose(other, gd, rtol=TOLERANCE)


def test_the_seed_alone_decides() -> None:
    once, again = sensing(TINY), sensing(TINY)
    np.testing.assert_array_equal(errors(once), errors(again))
    assert not np.allclose(errors(once), errors(sensing(replace(TINY, seed=4))))


def test_float32_descends_the_same_problem() -> None:
    single = sensing(replace(TINY, dtype="float32"))
    np.testing.assert_allclose(errors(single), errors(sensing(TINY)), rtol=1e-5)


def test_some_two_hundred_steps_are_logged() -> None:
    told: list[tuple[float, float]] = []
    found = sensing(
        replace(TINY, steps=1000), lambda progress: told.append((progress.done, progress.expected))
    )
    assert list(found.steps) == list(range(0, 1001, 5))
    assert told == [(step, 1000) for step in found.steps]
    assert all(len(curves.trace) == 201 for curves in found.curves.values())
    assert sensing(replace(TINY, steps=3)).steps == (0, 1, 2, 3)


def test_divergence_is_a_value() -> None:
    found = sensing(replace(TINY, lr=10.0, steps=20))
    assert np.isfinite(errors(found)[:, 0]).all()
    assert not np.isfinite(errors(found)[:, -1]).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dimension": 0}, "`dimension` is too small"),
        ({"rank": 0}, "`rank` is too small"),
        ({"rank": 6}, "the rank is out of range"),
        ({"num_measurements": 0}, "`num_measurements` is too small"),
        ({"steps": 0}, "`steps` is too small"),
        ({"num_pairs": 0}, "`num_pairs` is too small"),
        ({"lr": -1.0}, "lr is out of range"),
        ({"lr": math.inf}, "lr is out of range"),
        ({"sigma": -0.1}, "sigma is out of range"),
        ({"sigma": math.nan}, "sigma is out of range"),
        ({"dtype": "float16"}, "unknown dtype"),
        ({"device": "gpu"}, "unknown device"),
    ],
)
def test_what_is_out_of_range_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        sensing(replace(TINY, **change))
