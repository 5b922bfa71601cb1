"""Confidence intervals: they cover as often as they say, and say nothing where nothing is known."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
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


def equal(count: int) -> NDArray[np.float64]:
    """A rank-one operator with so many equal entries."""
    return np.full((count, count), 1 / count)


BLOCK = np.zeros((8, 8))
BLOCK[:4, 4:] = BLOCK[4:, :4] = 1.0
WORST: dict[str, NDArray[np.float64]] = {
    **{f"rank one, {count} equal entries": equal(count) for count in (2, 3, 4, 6, 32)},
    "of trace 0": np.kron(np.diag([1.0, -1.0]), equal(4)),
    "between two layers": BLOCK,
    "rare and much beside little": np.kron(np.diag([1.0, 0.01]), equal(3)),
    "heavy tails": 0.5 * ((c := np.random.default_rng(0).standard_cauchy((20, 20))) + c.T),
}


@pytest.mark.parametrize("name", WORST)
def test_intervals_cover_as_often_as_they_say(name: str) -> None:
    matrix, rng = WORST[name], np.random.default_rng(0)
    for count in (13, 16, 20, 23, 32, 64):
        signs = rng.choice(np.array([-1.0, 1.0]), (1000, count, len(matrix)))
        forms = np.einsum("ski,ij,skj->sk", signs, matrix, signs, optimize=True)
        held = [covered(estimate_mean(row), float(np.trace(matrix))) for row in forms.round(12)]
        assert np.mean(held) >= 0.93 - 0.008, count  # one standard error


def test_nor_are_they_needlessly_wide() -> None:
    eigenvalues, matrix = SPECTRA["decaying"], symmetric(SPECTRA["decaying"])
    rng, hits = np.random.default_rng(0), {"trace": 0, "norm": 0}
    for _ in range(500):
        samples, rows = TraceSamples(), torch.from_numpy(rng.choice([-1.0, 1.0], (64, SIZE)))
        samples.add(rows, rows @ matrix)
        hits["trace"] += covered(samples.trace(), eigenvalues.sum())
        hits["norm"] += covered(samples.frobenius_norm(), float(np.linalg.norm(eigenvalues)))
    assert all(465 <= hit < 495 for hit in hits.values()), hits


@pytest.mark.parametrize("count", [2, 3, 8, 12])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_so_few_samples_tell_nothing(count: int, spread: float) -> None:
    """Three equal entries: what is seen with chance 1/4 may all be unseen."""
    estimate = estimate_mean(1.0 + spread * np.arange(count))
    assert estimate.ci95 == (-math.inf, math.inf)
    assert estimate.rel_error == math.inf
    assert estimate.bounded() == Estimate(estimate.value, estimate.stderr, None, count)
    samples = TraceSamples()
    samples.add(rows := normal(count, 5), rows)
    assert samples.trace().ci95 is samples.frobenius_norm().ci95 is None


def test_the_interval_leans_towards_the_long_tail() -> None:
    skewed = np.r_[np.zeros(12), 1.0, 2.0, 6.0]
    estimate, mirrored = estimate_mean(skewed), estimate_mean(-skewed)
    assert estimate.ci95 is not None
    low, high = estimate.ci95
    assert high - estimate.value > 1.2 * (estimate.value - low) > 0
    assert mirrored.ci95 == pytest.approx((-high, -low))


@pytest.mark.parametrize(("count", "deviations"), [(13, 4.0), (22, 4.0), (23, 1.5), (60, 1.5)])
def test_the_ends_are_students_quantiles_under_halls_transformation(
    count: int, deviations: float
) -> None:
    """With the sample's skewness moved by so many of its standard errors, to either side."""
    samples = np.random.default_rng(count).chisquare(1, count)
    found, deviation = estimate_mean(samples).ci95, samples.std(ddof=1)
    assert found is not None
    quantile = stats.t.ppf(0.975, count - 1) / math.sqrt(count)
    of_sample = float(stats.skew(samples, bias=False))
    for end, side in zip(found, (-1, 1), strict=True):
        ends: list[float] = []
        for doubt in (0.0, side * deviations * math.sqrt(6 / count)):
            w, skew = (samples.mean() - end) / deviation, of_sample + doubt
            transformed = w + skew * w**2 / 3 + skew**2 * w**3 / 27 + skew / (6 * count)
            ends.append(-side * transformed)  # Hall (1992), g_1
        assert max(ends) >= quantile * (1 - 1e-9)
        assert min(abs(value - quantile) for value in ends) < 1e-9


def test_above_95_percent_the_interval_is_that_of_quadratic_forms() -> None:
    samples = np.random.default_rng(0).chisquare(1, 200)
    found = estimate_mean(samples, 0.999)
    assert found.ci95 == pytest.approx(form_interval(samples, None, 0.001))
    assert estimate_mean(samples[:32], 0.999).ci95 == (-math.inf, math.inf)
    assert found.stderr == estimate_mean(samples).stderr


@pytest.mark.parametrize("factor", [-1e8, 1e-8, 1e8])
def test_estimates_scale_with_the_samples(factor: float) -> None:
    samples = np.random.default_rng(0).chisquare(1, 20)
    one, other = estimate_mean(samples), estimate_mean(factor * samples)
    assert one.ci95 is not None
    assert other.ci95 == pytest.approx(sorted(factor * end for end in one.ci95))
    assert other.rel_error == pytest.approx(one.rel_error)


@pytest.mark.parametrize("value", [0.0, 1.0, -7.0, 0.1, 1e-12, 1e12])
@pytest.mark.parametrize("count", [13, 16])
def test_constant_samples_give_an_interval_of_no_length(value: float, count: int) -> None:
    estimate = estimate_mean(np.full(count, value))
    assert estimate.value == pytest.approx(value)
    assert estimate.stderr == pytest.approx(0.0, abs=1e-15 * abs(value))
    assert estimate.ci95 == pytest.approx((value, value), rel=1e-14)
    assert estimate.rel_error < 1e-14


def test_the_relative_error_is_half_the_interval_over_the_value() -> None:
    assert Estimate(-4.0, 0.5, (-5.0, -3.0), 9).rel_error == 0.25
    assert Estimate(0.0, 0.5, (-1.0, 1.0), 9).rel_error == math.inf
