"""Confidence intervals: they cover as often as they say, and say nothing where nothing is known."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from hessdiag.linalg.quadratic_forms import form_interval
from hessdiag.linalg.trace import Estimate, TraceSamples, estimate_mean
from tests.linalg.matrices import normal, symmetric

SIZE = 100
SPECTRA = {
    "rank one": np.r_[1.0, np.zeros(SIZE - 1)],
    "decaying": 100 * 0.7 ** np.arange(SIZE),
    "outliers of both signs": np.r_[10.0, -6.0, 4.0, np.zeros(SIZE - 3)],
}


def covered(estimate: Estimate, truth: float) -> bool:
    assert estimate.ci95 is not None
    return estimate.ci95[0] <= truth <= estimate.ci95[1]


@pytest.mark.parametrize("name", SPECTRA)
def test_intervals_cover_as_often_as_they_say(name: str) -> None:
    eigenvalues, matrix = SPECTRA[name], symmetric(SPECTRA[name])
    rng, hits = np.random.default_rng(0), {(k, what): 0 for k in (16, 64) for what in "tf"}
    for _ in range(1000):
        rows = torch.from_numpy(rng.choice([-1.0, 1.0], (64, SIZE)))
        samples, products = TraceSamples(), rows @ matrix
        for begin, end in ((0, 16), (16, 64)):
            samples.add(rows[begin:end], products[begin:end])
            hits[end, "t"] += covered(samples.trace(), eigenvalues.sum())
            hits[end, "f"] += covered(samples.frobenius_norm(), np.linalg.norm(eigenvalues))
    assert min(hits[16, "t"], hits[16, "f"]) >= 900, hits
    assert min(hits[64, "t"], hits[64, "f"]) >= 930, hits
    assert max(hits.values()) < 985, hits  # nor are they needlessly wide


def test_students_interval_alone_would_cover_too_seldom() -> None:
    vector = normal(SIZE, seed=1).numpy()
    vector /= np.linalg.norm(vector)
    signs = np.random.default_rng(1).choice(np.array([-1.0, 1.0]), (2500, 16, SIZE))
    samples = (signs @ vector) ** 2
    stderr = samples.std(axis=1, ddof=1) / 4
    student = np.abs(samples.mean(axis=1) - 1) <= stats.t.ppf(0.975, 15) * stderr
    assert student.mean() < 0.90
    assert np.mean([covered(estimate_mean(row), 1.0) for row in samples]) > 0.93


def test_the_interval_leans_towards_the_long_tail() -> None:
    skewed = np.r_[np.zeros(12), 1.0, 2.0, 6.0]
    estimate, mirrored = estimate_mean(skewed), estimate_mean(-skewed)
    assert estimate.ci95 is not None
    low, high = estimate.ci95
    assert high - estimate.value > 1.2 * (estimate.value - low) > 0
    assert mirrored.ci95 == pytest.approx((-high, -low))


@pytest.mark.parametrize("count", [3, 5, 20])
def test_the_ends_are_students_quantiles_under_halls_transformation(count: int) -> None:
    samples = np.random.default_rng(count).chisquare(1, count)
    skew, deviation = float(stats.skew(samples, bias=False)), samples.std(ddof=1)
    found = estimate_mean(samples).ci95
    assert found is not None
    w = (samples.mean() - np.array(found)) / deviation  # Hall (1992), g_1
    transformed = w + skew * w**2 / 3 + skew**2 * w**3 / 27 + skew / (6 * count)
    quantile = stats.t.ppf(0.975, count - 1) / math.sqrt(count)
    np.testing.assert_allclose(transformed, [quantile, -quantile], rtol=1e-9)


def test_without_skewness_the_interval_is_students() -> None:
    samples = np.arange(-4.0, 5.0)
    estimate = estimate_mean(samples)
    expected = stats.t.interval(0.95, 8, loc=0.0, scale=stats.sem(samples))
    assert estimate.ci95 == pytest.approx(expected)
    assert estimate.stderr == pytest.approx(stats.sem(samples))


def test_above_95_percent_the_interval_is_that_of_quadratic_forms() -> None:
    samples = np.random.default_rng(0).chisquare(1, 200)
    found = estimate_mean(samples, 0.999)
    assert found.ci95 == pytest.approx(form_interval(samples, None, 0.001))
    assert estimate_mean(samples[:32], 0.999).ci95 == (-math.inf, math.inf)
    assert found.stderr == estimate_mean(samples).stderr


@pytest.mark.parametrize("factor", [-1e8, 1e-8, 1e8])
def test_estimates_scale_with_the_samples(factor: float) -> None:
    samples = np.random.default_rng(0).chisquare(1, 12)
    one, other = estimate_mean(samples), estimate_mean(factor * samples)
    assert one.ci95 is not None
    assert other.ci95 == pytest.approx(sorted(factor * end for end in one.ci95))
    assert other.rel_error == pytest.approx(one.rel_error)


@pytest.mark.parametrize("value", [0.0, 1.0, -7.0, 0.1, 1e-12, 1e12])
@pytest.mark.parametrize("count", [2, 3, 16])
def test_constant_samples_give_an_interval_of_no_length(value: float, count: int) -> None:
    estimate = estimate_mean(np.full(count, value))
    assert estimate.value == pytest.approx(value)
    assert estimate.stderr == pytest.approx(0.0, abs=1e-15 * abs(value))
    assert estimate.ci95 == pytest.approx((value, value), rel=1e-14)
    assert estimate.rel_error < 1e-14


def test_the_relative_error_is_half_the_interval_over_the_value() -> None:
    assert Estimate(-4.0, 0.5, (-5.0, -3.0), 9).rel_error == 0.25
    assert Estimate(0.0, 0.5, (-1.0, 1.0), 9).rel_error == math.inf
