"""Paired differences over seeds."""

import math

import numpy as np
import pytest
from scipy import stats

from hessdiag.linalg.paired import Difference


def test_the_interval_is_students():
    values = [0.1, 0.3, -0.2, 0.4, 0.2]
    found = Difference.of(values, 0.98)
    assert found is not None
    assert found.interval is not None
    ends = stats.t.interval(0.98, 4, np.mean(values), stats.sem(values))
    assert found.interval == pytest.approx(ends)
    assert (found.mean, found.count) == (pytest.approx(0.16), 5)


def test_seeds_are_paired():
    noise = {seed: math.sin(seed) for seed in range(6)}
    other = {seed: x + 0.5 for seed, x in noise.items()} | {9: 1.0}
    found = Difference.between(other, noise | {2: None})
    assert found is not None
    assert found.mean == pytest.approx(0.5)
    assert found.stderr == pytest.approx(0, abs=1e-12)
    assert found.count == 5


def test_few_seeds_tell_little():
    assert Difference.of([]) is None
    assert Difference.of([2.0]) == Difference(2.0, None, None, 1)
