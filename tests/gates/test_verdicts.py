"""Verdicts: the truth table, and the arithmetic of increases."""

import itertools
import math

import pytest

from hessdiag.gates.limits import Limit
from hessdiag.gates.verdicts import FAIL, INCONCLUSIVE, PASS, Finding, judge, overall
from hessdiag.metrics.metric_reading import Reading

METRIC = "hessian.trace"
NOW = Reading(10.0, 1.0, (8.0, 12.0), 32)


@pytest.mark.parametrize(
    ("kind", "bound", "verdict"),
    [
        ("max", 12.0, PASS),
        ("max", 12.1, PASS),
        ("max", 11.9, INCONCLUSIVE),
        ("max", 8.0, INCONCLUSIVE),
        ("max", 7.9, FAIL),
        ("min", 8.0, PASS),
        ("min", 7.9, PASS),
        ("min", 8.1, INCONCLUSIVE),
        ("min", 12.0, INCONCLUSIVE),
        ("min", 12.1, FAIL),
    ],
)
def test_a_limit_on_a_metric(kind: str, bound: float, verdict: str):
    found = judge(Limit(kind, METRIC, bound), NOW, (8.0, 12.0))
    assert found.verdict == verdict
    assert found.interval == (8.0, 12.0)
    assert found.reading is NOW
    assert ("on both sides" in found.reason) == (verdict == INCONCLUSIVE)


@pytest.mark.parametrize(
    ("bound", "relative", "verdict"),
    [
        (3.0, False, PASS),
        (2.9, False, INCONCLUSIVE),
        (-3.0, False, INCONCLUSIVE),
        (-3.1, False, FAIL),
        (3 / 9, True, PASS),
        (0.33, True, INCONCLUSIVE),
        (-3 / 11, True, INCONCLUSIVE),
        (-0.28, True, FAIL),
    ],
)
def test_a_limit_on_an_increase(bound: float, relative: bool, verdict: str):
    base = Reading(10.0, 0.5, (9.0, 11.0), 32)
    limit = Limit("max-increase", METRIC, bound, relative)
    found = judge(limit, NOW, (8.0, 12.0), base, (9.0, 11.0))
    assert found.verdict == verdict
    assert found.baseline is base


@pytest.mark.parametrize("current", [(8.0, 12.0), (-3.0, 2.0), (-5.0, -4.0)])
@pytest.mark.parametrize("baseline", [(9.0, 11.0), (-4.0, -1.0)])
def test_the_interval_of_an_increase_holds_every_pair_and_no_more(
    current: tuple[float, float], baseline: tuple[float, float]
):
    limit = Limit("max-increase", METRIC, 0.0, relative=True)
    found = judge(limit, NOW, current, Reading(1.0), baseline).interval
    grid = [[a + (b - a) * i / 50 for i in range(51)] for a, b in (current, baseline)]
    every = [(c - b) / abs(b) for c, b in itertools.product(*grid)]
    assert found == pytest.approx((min(every), max(every)))


def test_a_share_of_a_baseline_that_may_be_zero_is_not_bounded():
    limit = Limit("max-increase", METRIC, 0.1, relative=True)
    found = judge(limit, Reading(10.0), (8.0, 12.0), Reading(0.5), (-1.0, 2.0))
    assert (found.verdict, found.interval) == (INCONCLUSIVE, (-math.inf, math.inf))
    assert "not bounded" in found.reason


def test_a_share_of_zero_fails_and_says_what_to_do():
    limit = Limit("max-increase", METRIC, 0.1, relative=True)
    found = judge(limit, NOW, (8.0, 12.0), Reading(0.0), (0.0, 0.0))
    assert found.verdict == FAIL
    assert "without %" in found.reason
    absolute = judge(Limit("max-increase", METRIC, 12.0), NOW, (8.0, 12.0), Reading(0.0), (0, 0))
    assert absolute.verdict == PASS


def test_zero_has_no_sign():
    found = judge(
        Limit("min", "nme.lambda_min", 0.0), Reading(0.0, 0.0, (0.0, 0.0), 0), (0.0, -0.0)
    )
    assert found.reason == "it is 0"


def test_without_an_interval_nothing_is_concluded():
    found = judge(Limit("max", METRIC, 1e9), Reading(1.0, None), (-math.inf, math.inf))
    assert found.verdict == INCONCLUSIVE


def test_the_worst_verdict_is_that_of_the_gate():
    findings = {
        verdict: Finding(Limit("max", METRIC, 1.0), verdict, "")
        for verdict in (PASS, FAIL, INCONCLUSIVE)
    }
    assert overall([]) == PASS
    for count in (1, 2, 3):
        for chosen in itertools.product(findings, repeat=count):
            got = overall(findings[verdict] for verdict in chosen)
            assert got == next(v for v in (FAIL, INCONCLUSIVE, PASS) if v in chosen)
