"""Intervals of quadratic forms: they miss as seldom as they promise, and are not much too long."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from hessdiag.linalg.quadratic_forms import (
    form_interval,
    least_share,
    scale_interval,
    square_interval,
)

RNG = np.random.default_rng(0)
HARMONIC = 1 / np.arange(1, 25)
OPERATORS = {
    **{f"rank one of {m}": np.ones((m, m)) / m for m in (2, 3, 4, 8, 32)},
    "rare": -np.ones((16, 16)) / 16,
    "sparse diagonal": np.diag(np.r_[np.ones(3), np.zeros(20)]) + 1e-4,
    "trace zero": np.array([[0.0, 1.0], [1.0, 0.0]]),
    "heavy tail": np.outer(HARMONIC, HARMONIC),
    "scales": np.kron(np.diag(10.0 ** -np.arange(6)), np.ones((4, 4)) / 4),
}


def sampled(matrix: np.ndarray, *shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return vᵀAv and ‖Av‖² of Rademacher probes."""
    probes = np.random.default_rng(seed).choice([-1.0, 1.0], (*shape, len(matrix)))
    products = probes @ matrix
    return (probes * products).sum(-1), (products**2).sum(-1)


def missed(ends: tuple[np.ndarray, np.ndarray], truth: float) -> np.ndarray:
    slack = 1e-9 * max(abs(truth), 1e-6)
    return (ends[0] > truth + slack) | (ends[1] < truth - slack)


@pytest.mark.parametrize("name", OPERATORS)
def test_intervals_miss_as_seldom_as_they_promise(name: str):
    """Also where the samples are few, the level small, or what matters seldom seen."""
    matrix = OPERATORS[name]
    forms, squares = sampled(matrix, 2000, 128)
    trace, square = float(np.trace(matrix)), float(np.sum(matrix**2))
    for count, alpha in itertools.product((8, 32, 128), (0.05, 1e-3)):
        few, their = forms[:, :count], squares[:, :count]
        most = 4 if alpha < 1 / 500 else 2000 * alpha
        assert missed(form_interval(few, their, alpha), trace).sum() <= most
        assert missed(form_interval(few, None, alpha), trace).sum() <= most
        assert missed(square_interval(their, alpha), square).sum() <= most
        assert missed(scale_interval(their.mean(-1), count, alpha), square).sum() <= most


@pytest.mark.parametrize("seed", range(20))
def test_moments_are_in_the_proportion_that_the_intervals_rest_on(seed: int):
    """By enumeration of all probes, on matrices that are sparse, of low rank, or of both signs."""
    rng = np.random.default_rng(seed)
    size = 8
    matrix = rng.standard_t(1.5, (size, size)) * (rng.random((size, size)) < rng.random())
    if seed % 2:
        matrix = np.outer(vector := rng.standard_t(1.5, size), vector)
    matrix = matrix + matrix.T + 1e-9
    probes = np.array(list(itertools.product([-1.0, 1.0], repeat=size)))
    products = probes @ matrix
    rows = rng.integers(1, size)  # of a layer
    for at in (slice(None), slice(0, int(rows))):
        forms = (probes[:, at] * products[:, at]).sum(1)
        squares = (products[:, at] ** 2).sum(1)
        for values in (forms, squares):
            centred = values - values.mean()
            assert (centred**4).mean() <= 15 * (centred**2).mean() ** 2 * (1 + 1e-9)
        assert forms.var() <= 2 * squares.mean() * (1 + 1e-9)
        assert (squares**2).mean() <= 3 * squares.mean() ** 2 * (1 + 1e-9)


def test_the_bounds_on_moments_are_nearly_reached():
    """Rank one with many equal entries: a χ², of kurtosis 15, whose square has the ratio 3."""
    forms, squares = sampled(np.ones((256, 256)) / 256, 100_000)
    centred = forms - 1
    assert (centred**4).mean() / (centred**2).mean() ** 2 == pytest.approx(15, rel=0.15)
    assert (squares**2).mean() / squares.mean() ** 2 == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("effective_rank", [10, 100])
def test_intervals_are_little_longer_than_students(effective_rank: int):
    eigenvalues = np.exp(-np.arange(300) / effective_rank)
    rotation, _ = np.linalg.qr(RNG.normal(size=(300, 300)))
    forms, squares = sampled((rotation * eigenvalues) @ rotation.T, 1024)
    for samples, ends in (
        (forms, form_interval(forms, squares, 1e-3)),
        (squares, square_interval(squares, 1e-3)),
    ):
        low, high = stats.t.interval(0.999, 1023, samples.mean(), stats.sem(samples))
        assert 1 < (ends[1] - ends[0]) / (high - low) < 2


def test_ends_scale_with_the_samples_and_turn_with_their_sign():
    forms, squares = sampled(OPERATORS["rank one of 8"], 64)
    low, high = form_interval(forms, squares, 0.05)
    for factor in (1e-30, 1e30):
        scaled = form_interval(factor * forms, factor**2 * squares, 0.05)
        assert np.array(scaled) == pytest.approx(factor * np.array([low, high]), rel=1e-6)
    turned = form_interval(-forms, squares, 0.05)
    assert np.array(turned) == pytest.approx([-high, -low], rel=1e-6)


def test_constant_samples_are_believed_once_there_are_enough():
    """A diagonal matrix: 32 equal values may have missed others, 256 have not."""
    constant = np.full(256, 3.0)
    assert form_interval(constant, constant, 0.01) == (3.0, 3.0)
    low, high = form_interval(constant[:32], constant[:32], 0.01)
    assert low < 0 < 6 < high
    assert form_interval(constant[:32], None, 0.01) == (-math.inf, math.inf)
    assert form_interval(np.zeros(4), np.zeros(4), 1e-9) == (-math.inf, math.inf)


def test_one_sample_says_next_to_nothing():
    one = np.ones(1)
    assert form_interval(one, one, 0.05) == (-math.inf, math.inf)
    low, high = square_interval(one, 0.05)
    assert 0 < low < 1
    assert high == math.inf


@pytest.mark.parametrize(("count", "ratio", "alpha"), [(32, 3.0, 0.01), (128, 9.0, 1e-4)])
def test_the_least_share_is_chernoffs_of_the_worst_samples(count: int, ratio: float, alpha: float):
    """Samples that are 0 or ``ratio``: the binomial tail lies within Chernoff's bound, not far."""
    share = least_share(count, ratio, alpha)
    tail = stats.binom.cdf(math.floor(share * count / ratio + 1e-9), count, 1 / ratio)
    assert tail <= alpha
    assert stats.binom.cdf(math.ceil(share * count / ratio) + 1, count, 1 / ratio) > alpha
    assert least_share(4, ratio, alpha) == 0


def test_rows_are_bounded_one_by_one():
    forms, squares = sampled(OPERATORS["heavy tail"], 5, 64)
    low, high = form_interval(forms, squares, 0.05)
    for row in range(5):
        alone = form_interval(forms[row], squares[row], 0.05)
        assert (low[row], high[row]) == pytest.approx(alone)
