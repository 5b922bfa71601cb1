"""Step gradients that hold random draws: exact given the draw, enumerated, and in the mean."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev
from torch.nn import functional as F

from tests.cases import generator, labels, mlp, normal
from tests.oracles import hessian, relative_error, trainable
from tests.training.test_gradients import (
    GELU,
    LINEAR,
    TOLERANCE,
    Problem,
    each_problem,
    evaluator,
    flat,
    matrices,
)

TINY = Problem("tiny", partial(mlp, nn.GELU, 3, 3, 3), normal(3, 3, seed=7), labels(3))
SQUARES = Problem("squares", TINY.build, TINY.x, TINY.y, "mse")
SMOOTHED = Problem("smoothed", TINY.build, TINY.x, TINY.y, label_smoothing=0.2)
SAMPLED = ("detached", "straight-through")
DIRECTIONS = normal(5, len(TINY.theta), seed=8)


def noises(problem: Problem, number: int, seed: int = 0) -> list[Tensor]:
    """Draw standard normal vectors from the perturbation stream, flat in the weights' order."""
    draws, parameters = generator(seed + 50), trainable(problem.make_model()).values()
    return [
        flat([torch.randn(p.shape, generator=draws, dtype=p.dtype) for p in parameters])
        for _ in range(number)
    ]


def sampled_targets(problem: Problem, number: int, seed: int = 0) -> list[Tensor]:
    """Draw what the model predicts from the label stream."""
    draws, z = generator(seed + 90), problem.outputs(problem.theta)
    if problem.loss == "mse":  # exp(−ℓ) is normal of variance C/2
        scale = (z.shape[1] / 2) ** 0.5
        return [
            z + scale * torch.randn(z.shape, generator=draws, dtype=z.dtype) for _ in range(number)
        ]
    shares = z.softmax(1).cumsum(1)
    return [
        torch.searchsorted(
            shares, torch.rand(len(z), 1, generator=draws, dtype=z.dtype), right=True
        )[:, 0]
        for _ in range(number)
    ]


@cache
def live_hessian(problem: Problem) -> tuple[Tensor, Tensor]:
    """Compute H(θ) as a matrix with a graph, and θ."""
    theta = problem.theta.requires_grad_()
    h = torch.autograd.functional.hessian(problem.risk, theta, create_graph=True)
    return h, theta


def hessian_penalty(problem: Problem, probes: list[Tensor]) -> Tensor:
    """Compute the gradient of (1/m) Σ vᵀHv."""
    h, theta = live_hessian(problem)
    penalty = torch.stack([v @ h @ v for v in probes]).mean()
    return torch.autograd.grad(penalty, theta, retain_graph=True)[0]


def gn_penalty(problem: Problem, targets: list[Tensor], labels: str) -> Tensor:
    """Compute 2N H(ŷ)ḡ, with H − G for H if labels are sampled straight through; mean over ŷ."""
    theta, gn = problem.theta, matrices(problem)[2]
    terms: list[Tensor] = []
    for sampled in targets:
        h = hessian(partial(problem.risk, targets=sampled), theta)
        h = h - gn if labels == "straight-through" else h
        terms.append(2 * len(problem.x) * h @ problem.gradient(theta, sampled))
    return torch.stack(terms).mean(0)


def assert_mean(rows: Tensor, wanted: Tensor) -> None:
    """Compare along some directions, within four standard errors."""
    found, exact = rows @ DIRECTIONS.T, DIRECTIONS @ wanted
    stderr = found.std(0) / len(rows) ** 0.5
    assert bool(((found.mean(0) - exact).abs() < 4 * stderr).all())
    assert bool((exact.abs() > 8 * stderr).any())  # so that nothing is told from something


# given the draw


@pytest.mark.parametrize("samples", [1, 3])
@each_problem
def test_weight_noise_averages_over_noisy_weights(problem: Problem, samples: int) -> None:
    passes = [problem.gradient(problem.theta + 0.1 * v) for v in noises(problem, samples)]
    got = problem.step("weight-noise", sigma2=0.01, samples=samples)
    assert relative_error(got, torch.stack(passes).mean(0)) < TOLERANCE
    assert relative_error(problem.step("none"), got) > 1e-3
    assert samples == 1 or relative_error(got, passes[0]) > 1e-3


@pytest.mark.parametrize("num_pairs", [1, 2])
@each_problem
def test_nso_averages_over_pairs_of_opposite_noise(problem: Problem, num_pairs: int) -> None:
    theta = problem.theta
    passes = [
        problem.gradient(theta + sign * 0.1 * v)
        for v in noises(problem, num_pairs)
        for sign in (1, -1)
    ]
    got = problem.step("nso", sigma2=0.01, num_pairs=num_pairs)
    assert relative_error(got, torch.stack(passes).mean(0)) < TOLERANCE
    assert relative_error(got, passes[0]) > 1e-3


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("probe", ["gaussian", "rademacher"])
@each_problem
def test_the_hessian_trace_differentiates_the_dense_hessian(
    problem: Problem, probe: str, samples: int
) -> None:
    probes = noises(problem, samples)
    probes = [v.sign() for v in probes] if probe == "rademacher" else probes
    g = matrices(problem)[0]
    wanted = g + 0.2 * hessian_penalty(problem, probes)
    got = problem.step("hessian-trace", kappa=0.2, samples=samples, probe=probe)
    assert relative_error(got, wanted) < TOLERANCE
    assert relative_error(g, wanted) > 1e-3


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("labels", SAMPLED)
@each_problem
def test_the_gn_trace_multiplies_the_hessian_of_sampled_labels(
    problem: Problem, labels: str, samples: int
) -> None:
    targets, g = sampled_targets(problem, samples), matrices(problem)[0]
    wanted = g + 0.2 * gn_penalty(problem, targets, labels)
    got = problem.step("gn-trace", kappa=0.2, samples=samples, labels=labels)
    assert relative_error(got, wanted) < TOLERANCE
    assert relative_error(g, wanted) > 1e-3


def test_straight_through_leaves_nothing_of_a_linear_model() -> None:
    for loss in ("mse", "cross-entropy"):
        problem = Problem("linear", LINEAR.build, LINEAR.x, LINEAR.y, loss)
        got = problem.step("gn-trace", kappa=0.2, labels="straight-through")
        assert relative_error(got, matrices(problem)[0]) < TOLERANCE


@pytest.mark.parametrize("labels", SAMPLED)
@pytest.mark.parametrize("probe", ["gaussian", "rademacher"])
@each_problem
def test_the_nme_trace_is_one_penalty_less_the_other(
    problem: Problem, probe: str, labels: str
) -> None:
    probes, targets = noises(problem, 2), sampled_targets(problem, 2)
    probes = [v.sign() for v in probes] if probe == "rademacher" else probes
    penalty = hessian_penalty(problem, probes)
    penalty = penalty - gn_penalty(problem, targets, labels)
    got = problem.step("nme-trace", kappa=0.2, samples=2, probe=probe, labels=labels)
    assert relative_error(got, matrices(problem)[0] + 0.2 * penalty) < TOLERANCE


def test_nso_is_the_hessian_trace_of_half_its_variance_to_third_order() -> None:
    def difference(sigma2: float) -> float:
        pairs = GELU.step("nso", sigma2=sigma2)  # the two draw the same noise
        return (pairs - GELU.step("hessian-trace", kappa=sigma2 / 2)).norm().item()

    assert difference(4e-4) / difference(1e-4) == pytest.approx(16, rel=0.02)
    assert difference(1e-4) < 1e-3 * (GELU.step("nso", sigma2=1e-4) - GELU.step("none")).norm()


@pytest.mark.parametrize("method", ["hessian-trace", "gn-trace", "nme-trace"])
def test_no_weight_is_no_penalty(method: str) -> None:
    assert relative_error(GELU.step(method, kappa=0.0), matrices(GELU)[0]) < TOLERANCE


# all labels


@pytest.fixture
def every_label(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each combination of labels on TINY, and its probability with a graph to θ.

    While one is out, it is what the model draws.
    """
    z = evaluator(TINY)
    out: list[Tensor] = []
    p = TINY.outputs(TINY.theta).softmax(1)
    middles = p.cumsum(1) - p / 2
    monkeypatch.setattr(torch, "rand", lambda *_, **__: middles[range(3), out[-1]])

    def combinations() -> Iterator[tuple[Tensor, Tensor]]:
        theta = TINY.theta.requires_grad_()
        for combination in product(range(3), repeat=3):
            out.append(torch.tensor(combination))
            p = z(theta).softmax(1)[range(3), out[-1]].prod()
            yield out[-1], torch.stack([p, *torch.autograd.grad(p, theta)[0]])

    return combinations()


def test_the_expected_step_is_that_of_theory(
    every_label: Iterator[tuple[Tensor, Tensor]],
) -> None:
    """Detached labels leave out of κ ∇tr G what the labels' distribution adds, and no more."""
    theta, kappa = TINY.theta, 0.2
    wanted = dict.fromkeys(SAMPLED, TINY.gradient(theta))
    steps = {key: torch.zeros_like(theta) for key in wanted}
    mass, missing = 0.0, torch.zeros_like(theta)
    for targets, (p, *slope) in every_label:
        p = p.detach()
        mass += p
        missing += kappa * 3 * TINY.gradient(theta, targets).square().sum() * torch.stack(slope)
        for key in wanted:
            penalty = gn_penalty(TINY, [targets], key)
            wanted[key] = wanted[key] + p * kappa * penalty
            steps[key] += p * TINY.step("gn-trace", kappa=kappa, labels=key)
    assert float(mass) == pytest.approx(1)
    for key, step in steps.items():
        assert relative_error(step, wanted[key]) < TOLERANCE
    whole = theta.clone().requires_grad_()
    (slope_of_trace,) = torch.autograd.grad(TINY.gn_trace(whole), whole)
    exact = TINY.gradient(theta) + kappa * slope_of_trace
    assert relative_error(steps["detached"] + missing, exact) < TOLERANCE


def test_sampled_labels_make_the_trace_of_g(
    every_label: Iterator[tuple[Tensor, Tensor]],
) -> None:
    z = TINY.outputs(TINY.theta)
    at = TINY.task().objective.loss.at(z, TINY.y)
    j, p = jacrev(evaluator(TINY))(TINY.theta), z.softmax(1)
    trace, covariance = torch.zeros(()).double(), torch.zeros(3, 3, 3).double()
    for targets, (weight, *_) in every_label:
        c = at.sampled_cotangent(at.draw(3, generator(0)))
        assert relative_error(c, p - F.one_hot(targets, 3)) < TOLERANCE
        g = torch.einsum("nk,nkp->p", c, j) / 3
        trace += weight.detach() * 3 * g @ g
        covariance += weight.detach() * c[:, :, None] * c[:, None, :]
    assert float(trace) == pytest.approx(float(matrices(TINY)[2].trace()), rel=TOLERANCE)
    b = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    assert relative_error(covariance, b) < TOLERANCE


# all signs


@pytest.fixture
def every_sign(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tensor]:
    """Yield each combination of signs of three examples' three outputs; it is what is drawn."""
    out: list[Tensor] = []
    monkeypatch.setattr(torch, "randint", lambda *_, **__: out[-1])

    def combinations() -> Iterator[Tensor]:
        for bits in product((0, 1), repeat=9):
            out.append(torch.tensor(bits).view(3, 3))
            yield out[-1]

    return combinations()


@pytest.mark.parametrize("problem", [TINY, SQUARES, SMOOTHED], ids=str)
def test_the_expected_exact_step_is_the_gradient_of_the_penalised_loss(
    problem: Problem, every_sign: Iterator[Tensor]
) -> None:
    theta = problem.theta.requires_grad_()
    (slope,) = torch.autograd.grad(problem.gn_trace(theta), theta)
    wanted = problem.gradient(problem.theta) + 0.2 * slope
    steps = torch.stack([problem.step("gn-trace", kappa=0.2) for _ in every_sign])
    assert relative_error(steps.mean(0), wanted) < TOLERANCE
    assert relative_error(steps[0], wanted) > 1e-3  # one draw is not the mean


def test_the_expected_nme_step_is_that_of_its_trace(
    every_sign: Iterator[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe's part is exact given the probe, and the rest is −κ ∇tr G on the mean."""
    theta, probe = TINY.theta.requires_grad_(), noises(TINY, 1)[0]
    (slope,) = torch.autograd.grad(TINY.gn_trace(theta), theta)
    wanted = matrices(TINY)[0] + 0.2 * (hessian_penalty(TINY, [probe]) - slope)
    steps = torch.stack([TINY.step("nme-trace", kappa=0.2) for _ in every_sign])
    assert relative_error(steps.mean(0), wanted) < TOLERANCE


# in the mean


@pytest.mark.parametrize("problem", [TINY, SQUARES], ids=str)
def test_sampled_cotangents_have_mean_zero_and_covariance_b(problem: Problem) -> None:
    draws, count = generator(5), 4000
    z = problem.outputs(problem.theta)
    at = problem.task().objective.loss.at(z, problem.y)
    c = torch.stack([at.sampled_cotangent(at.draw(len(z), draws)) for _ in range(count)])
    b = 2 / 3 * torch.eye(3).double().expand(3, 3, 3)
    if problem is TINY:
        p = z.softmax(1)
        b = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    outer = c[..., :, None] * c[..., None, :]
    g = torch.einsum("snk,nkp->sp", c, jacrev(evaluator(problem))(problem.theta)) / 3
    trace = matrices(problem)[2].trace()
    for samples, wanted in ((c, 0 * z), (outer, b), (3 * g.square().sum(1), trace)):
        error = (samples.mean(0) - wanted).abs()
        assert bool((error < 4 * samples.std(0) / count**0.5).all())


@pytest.mark.parametrize("probe", ["gaussian", "rademacher"])
@pytest.mark.parametrize("problem", [TINY, SQUARES], ids=str)
def test_the_mean_hessian_trace_step_descends_the_trace(problem: Problem, probe: str) -> None:
    h, theta = live_hessian(problem)
    (slope,) = torch.autograd.grad(h.trace(), theta, retain_graph=True)
    g = matrices(problem)[0]
    steps = [
        problem.step("hessian-trace", kappa=1.0, probe=probe, seed=1000 * s) for s in range(400)
    ]
    assert_mean(torch.stack(steps) - g, slope)


@pytest.mark.parametrize("method", ["weight-noise", "nso"])
def test_mean_noise_descends_the_trace_too(method: str) -> None:
    h, theta = live_hessian(TINY)
    (slope,) = torch.autograd.grad(h.trace(), theta, retain_graph=True)
    sigma2 = {"weight-noise": 0.04, "nso": 1e-4}[method]
    steps = [TINY.step(method, sigma2=sigma2, seed=1000 * s) for s in range(400)]
    rows = (torch.stack(steps) - matrices(TINY)[0]) / (sigma2 / 2)
    if method == "nso":
        assert_mean(rows, slope)
        return
    opposite = noises(TINY, 1)[0]  # one-sided noise has odd terms as well, which have mean zero
    theta = TINY.theta
    both = [TINY.gradient(theta + sign * sigma2**0.5 * opposite) for sign in (1, -1)]
    pair = TINY.step("nso", sigma2=sigma2)
    assert relative_error(torch.stack(both).mean(0), pair) < TOLERANCE
    error = (rows.mean(0) - slope) @ DIRECTIONS.T
    assert bool((error.abs() < 4 * (rows @ DIRECTIONS.T).std(0) / 20).all())


def test_the_mean_gn_trace_step_of_mse() -> None:
    """B does not depend on z, so that nothing is missing: the mean is κ ∇tr G."""
    theta = SQUARES.theta.requires_grad_()
    (slope,) = torch.autograd.grad(SQUARES.gn_trace(theta), theta)
    g = matrices(SQUARES)[0]
    steps = [
        SQUARES.step("gn-trace", kappa=1.0, labels="detached", seed=1000 * s) for s in range(400)
    ]
    assert_mean(torch.stack(steps) - g, slope)
