"""Metrics: names, the least spectrum that holds them, readings and their intervals."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace

import hessdiag
from hessdiag import InputError, Report
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate, Samples, estimate_mean
from hessdiag.metrics import metric_table
from hessdiag.metrics.metric import Missing
from hessdiag.metrics.metric_reading import Reading
from hessdiag.metrics.metric_table import parse
from hessdiag.metrics.norm_ratio import fieller, independent_ratio
from tests.cases import BY_NAME

CASE = "mlp-gelu"


@pytest.fixture(scope="module")
def report() -> Report:
    model, batches, loss = BY_NAME[CASE]
    chosen = [*map(parse, metric_table.NAMES), parse("gn.layers.fc1.weight.trace")]
    return hessdiag.spectrum(
        model, batches, loss=loss, num_probes=4, **metric_table.settings(chosen)
    )


@pytest.mark.parametrize(
    ("name", "spelled", "parts", "top_k", "layer"),
    [
        ("nme.trace", "nme.trace", ("nme",), 0, None),
        ("hessian.lambda_max", "hessian.top.0", ("hessian",), 1, None),
        ("gn.bottom.12", "gn.bottom.12", ("gn",), 13, None),
        ("gn.layers.a.trace.trace", "gn.layers.a.trace.trace", ("gn",), 0, "a.trace"),
        ("nme_to_gn", "nme_to_gn", ("nme", "gn"), 0, None),
        ("loss", "loss", (), 0, None),
        ("sparsity.above", "sparsity.above", (), 0, None),
    ],
)
def test_names(name: str, spelled: str, parts: tuple[str, ...], top_k: int, layer: str | None):
    metric = parse(name)
    assert (metric.name, metric.parts, metric.top_k, metric.layer) == (spelled, parts, top_k, layer)


@pytest.mark.parametrize(
    "name", ["nme", "nme.top", "nme.top.x", "nme.layers..trace", "nme.trace\n", "gradient", ""]
)
def test_what_is_no_name(name: str):
    assert metric_table.find(name) is None
    with pytest.raises(InputError, match="unknown metric to track") as caught:
        parse(name, what="metric to track")
    assert "unknown metric to track" in str(caught.value)


def test_all_common_names_are_read(report: Report):
    found = {name: parse(name).read(report) for name in metric_table.NAMES}
    assert all(isinstance(of, Reading) and math.isfinite(of.value) for of in found.values())
    gn = report.parts["gn"]
    assert gn.samples is not None
    samples = replace(gn.samples, layers=None)
    assert found["loss"] == Reading(report.loss)
    assert found["gradient.norm"] == Reading(report.gradient_norm)
    assert found["gn.trace"] == Reading.of(gn.trace, {"gn": samples})
    assert found["gn.frobenius_norm"] == Reading.of(gn.frobenius_norm, {"gn": samples})
    assert found["gn.lambda_max"] == Reading.of(gn.top[0])


def test_layers_are_read_with_the_samples_of_their_rows(report: Report):
    found = parse("gn.layers.fc1.weight.trace").read(report)
    gn = report.parts["gn"]
    assert gn.layers is not None
    assert gn.samples is not None
    assert gn.samples.layers is not None
    assert found == Reading.of(gn.layers["fc1.weight"], {"gn": gn.samples.layers["fc1.weight"]})


@pytest.mark.parametrize(
    ("name", "words"),
    [("gn.layers.fc9.trace", "no such parameter"), ("gn.top.7", "there are 1 top eigenvalues")],
)
def test_what_a_report_lacks(report: Report, name: str, words: str):
    found = parse(name).read(report)
    assert isinstance(found, Missing)
    assert words in found.reason


def test_a_part_and_an_accuracy_may_be_missing():
    empty = SimpleNamespace(parts={}, accuracy=None)
    for name, words in (("gn.trace", "the part gn"), ("accuracy", "not classes")):
        found = parse(name).read(empty)
        assert isinstance(found, Missing)
        assert words in found.reason


def test_the_least_settings():
    assert metric_table.settings(map(parse, ("nme.top.4", "gn.lambda_min", "loss"))) == {
        "parts": ("gn", "nme"),
        "top_k": 5,
        "ends": "gn=bottom,nme=top",
        "density": False,
        "per_layer": False,
    }
    assert metric_table.settings([parse("loss")])["parts"] == ("gn",)


def test_intervals_of_what_is_not_sampled_and_of_what_lost_its_samples():
    for reading, interval in (
        (Reading(2.0), (2.0, 2.0)),
        (Reading(2.0, 0.5), (1.5, 2.5)),
        (Reading(2.0, None), (-math.inf, math.inf)),
        (Reading(2.0, 0.5, (1.0, 3.0), 512), (-math.inf, math.inf)),
    ):
        assert parse("hessian.trace").interval(reading, 0.9) == interval


def test_intervals_come_from_the_samples():
    model, batches, loss = BY_NAME[CASE]
    report = hessdiag.spectrum(model, batches, loss=loss, num_probes=64, top_k=0, density=False)
    for name in ("hessian.trace", "nme.frobenius_norm", "nme_to_gn"):
        metric = parse(name)
        reading = metric.read(report)
        assert isinstance(reading, Reading)
        narrow, wide = (metric.interval(reading, level) for level in (0.5, 0.95))
        assert wide[0] < narrow[0] < reading.value < narrow[1] < wide[1]


# --- what linearises -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gn.trace", "gn.frobenius_norm", "nme_to_gn"])
def test_linearised_samples_have_the_estimate_as_mean_and_its_error_as_spread(
    report: Report, name: str
):
    metric = parse(name)
    reading = metric.read(report)
    assert isinstance(reading, Reading)
    assert reading.samples is not None
    assert metric.linearised is not None
    each = metric.linearised(reading.samples)
    assert each.mean() == pytest.approx(reading.value)
    assert each.std(ddof=1) / math.sqrt(len(each)) == pytest.approx(reading.error)


# --- the ratio of norms --------------------------------------------------------------------------


def test_fieller_finds_the_ratios_that_the_samples_allow():
    rng = np.random.default_rng(0)
    under = rng.chisquare(3, 24)
    over = 2 * under + rng.chisquare(1, 24)
    found = fieller(over, under)
    assert found.value == pytest.approx(math.sqrt(over.mean() / under.mean()))
    assert found.ci95 is not None
    for end in found.ci95:
        ends = estimate_mean(over - end**2 * under).ci95
        assert ends is not None
        assert min(map(abs, ends)) == pytest.approx(0, abs=1e-9)
    apart = independent_ratio(
        *(Samples(tuple(x), tuple(x)).frobenius_norm() for x in (over, under))
    )
    assert apart.value == pytest.approx(found.value)
    assert apart.ci95 is not None
    assert apart.ci95[0] < found.ci95[0] < found.ci95[1] < apart.ci95[1]


def test_fieller_knows_no_scale():
    rng = np.random.default_rng(0)
    over, under = rng.chisquare(1, (2, 32))
    plain = fieller(over, under)
    assert plain.ci95 is not None
    for a, b in ((1e-300, 1e-300), (1e300, 1.0), (1e-200, 1e200)):
        found, ratio = fieller(a * over, b * under), math.sqrt(a) / math.sqrt(b)
        assert found.value == pytest.approx(ratio * plain.value)
        assert found.stderr == pytest.approx(ratio * (plain.stderr or 0.0))
        assert found.ci95 == pytest.approx([ratio * end for end in plain.ci95])


def test_fieller_over_next_to_nothing_has_no_upper_end():
    """One probe in 32 sees the denominator at all; or the numerator is zero."""
    found = fieller(np.ones(32), np.r_[1.0, np.zeros(31)])
    assert found.ci95 is not None
    assert 0 < found.ci95[0] < found.value < found.ci95[1] == math.inf
    assert fieller(np.zeros(32), np.ones(32)).ci95 == (0.0, 0.0)
    assert fieller(np.zeros(4), np.ones(4)).ci95 == (0.0, math.inf)  # too few to tell


def test_fieller_covers_the_truth():
    """N = 2G + E: their norms share most of their noise."""
    rng, covered = np.random.default_rng(1), 0
    g = np.diag([3.0, 1.0, 0.5, 0.0]) + 0.5
    n = 2 * g + np.diag([0.0, 0.0, 1.0, -1.0])
    truth = float(np.linalg.norm(n) / np.linalg.norm(g))
    for _ in range(400):
        probes = rng.choice([-1.0, 1.0], (32, 4))
        found = fieller(*(((probes @ matrix) ** 2).sum(1) for matrix in (n, g)))
        assert found.ci95 is not None
        covered += found.ci95[0] <= truth <= found.ci95[1]
    assert covered > 0.92 * 400


@pytest.mark.parametrize(
    ("over", "under", "ci95"),
    [
        ([4.0] * 16, [1.0] * 16, (2.0, 2.0)),
        ([0.0] * 16, [1.0, 2.0, 3.0, 4.0] * 4, (0.0, 0.0)),
        ([1.0, 2.0, 3.0, 4.0] * 4, [0.0] * 15 + [1.0], (1.4, math.inf)),
        ([1.0, 2.0, 3.0, 4.0], [1.0] * 4, (0.0, math.inf)),  # too few to tell
        ([1.0], [4.0], None),
    ],
)
def test_ratios_at_the_edge(over: list[float], under: list[float], ci95: tuple[float, float]):
    found = fieller(over, under)
    assert found.ci95 == (None if ci95 is None else pytest.approx(ci95, abs=0.5))
    assert found.num_probes == len(over)


def test_the_ratio_without_samples_divides_the_intervals():
    nme, gn = Estimate(3.0, 0.3, (2.4, 3.6), 32), Estimate(2.0, 0.1, (1.8, 2.2), 16)
    found = independent_ratio(nme, gn)
    assert (found.value, found.num_probes) == (1.5, 16)
    assert found.ci95 == pytest.approx((2.4 / 2.2, 3.6 / 1.8))
    assert found.stderr == pytest.approx(1.5 * (0.3 / 3 + 0.1 / 2))
    vague = independent_ratio(nme, Estimate(1.0, 1.0, (0.0, 3.0), 32))
    assert vague.ci95 is not None
    assert vague.ci95[1] == math.inf
    assert independent_ratio(nme, Estimate(1.0, None, None, 1)) == Estimate(3.0, None, None, 1)


def test_an_eigenvalue_is_judged_by_the_interval_that_holds_it():
    """Its residual bounds the distance to some eigenvalue, and may be smaller."""
    ritz = RitzValue(2.0, 0.01, converged=True, interval=(2.0, 2.5), confidence=0.999999)
    metric, reading = parse("hessian.lambda_max"), Reading.of(ritz)
    assert metric is not None
    assert metric.interval(reading, 0.95) == metric.interval(reading, 0.999) == (2.0, 2.5)
    old = Reading.of(RitzValue(2.0, 0.01, converged=True))
    assert metric.interval(old, 0.95) == (1.99, math.inf)
    assert metric.interval(reading, 1 - 1e-7) == (2.0, math.inf)  # more than it promises
    bottom = parse("hessian.bottom.3")
    assert bottom is not None
    assert bottom.interval(old, 0.95) == (-math.inf, 2.01)
