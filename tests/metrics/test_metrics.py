"""Metrics: names, the least spectrum that holds them, readings and their intervals."""

import dataclasses
import math

import pytest
from scipy import stats

import hessdiag
from hessdiag import InputError
from hessdiag.metrics import spectrum_metrics as metrics
from hessdiag.metrics.spectrum_metrics import Metric, Reading
from tests.cases import BY_NAME

CASE = "mlp-gelu"


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("nme.trace", Metric(("nme",), "trace")),
        ("hessian.lambda_max", Metric(("hessian",), "top")),
        ("gn.bottom.12", Metric(("gn",), "bottom", 12)),
        ("gn.layers.fc1.weight.trace", Metric(("gn",), "trace", layer="fc1.weight")),
        ("nme_to_gn", Metric(("nme", "gn"), "nme_to_gn")),
        ("loss", Metric((), "loss")),
        ("gradient.norm", Metric((), "gradient_norm")),
        ("nme", None),
        ("nme.top", None),
        ("nme.top.x", None),
        ("nme.layers..trace", None),
        ("nme.trace\n", None),
        ("gradient", None),
        ("", None),
    ],
)
def test_names(name: str, metric: Metric | None):
    assert metrics.parse(name) == metric


def test_all_plain_names_are_known_and_read():
    wanted = {name: metrics.parse(name) for name in metrics.NAMES}
    assert all(wanted.values())
    model, batches, loss = BY_NAME[CASE]
    chosen = [metric for metric in wanted.values() if metric]
    report = hessdiag.spectrum(model, batches, loss=loss, num_probes=4, **metrics.settings(chosen))
    readings = [metrics.read(report, metric) for metric in chosen]
    assert all(reading is not None and math.isfinite(reading.value) for reading in readings)
    found = dict(zip(wanted, readings, strict=True))
    assert found["loss"] == Reading(report.loss)
    assert found["accuracy"] == Reading(report.accuracy or 0.0)
    assert found["gradient.norm"] == Reading(report.gradient_norm)
    assert found["gn.trace"] == Reading.of(report.parts["gn"].trace)
    top = report.parts["gn"].top[0]
    assert found["gn.lambda_max"] == Reading(top.value, top.residual)


def test_layers_are_read_and_a_layer_that_is_not_there_is_refused():
    model, batches, loss = BY_NAME[CASE]
    there, missing = (Metric(("gn",), "trace", layer=name) for name in ("fc1.weight", "fc9"))
    report = hessdiag.spectrum(model, batches, loss=loss, num_probes=4, **metrics.settings([there]))
    layers = report.parts["gn"].layers
    assert layers is not None
    assert metrics.read(report, there) == Reading.of(layers["fc1.weight"])
    with pytest.raises(InputError, match=r"no such layer"):
        metrics.read(report, missing)


def test_the_least_settings():
    of = [m for name in ("nme.top.4", "gn.lambda_min", "loss") if (m := metrics.parse(name))]
    assert metrics.settings(of) == {
        "parts": ("gn", "nme"),
        "top_k": 5,
        "density": False,
        "per_layer": False,
    }
    assert metrics.settings([Metric((), "loss")])["parts"] == ("gn",)


def test_there_is_no_accuracy_without_classes():
    model, batches, loss = BY_NAME["mlp-tanh-mse"]
    accuracy = Metric((), "accuracy")
    report = hessdiag.spectrum(
        model, batches, loss=loss, num_probes=1, **metrics.settings([accuracy])
    )
    assert metrics.read(report, accuracy) is None


# --- intervals -----------------------------------------------------------------------------------


def test_the_interval_of_what_is_not_sampled_is_its_bound():
    assert Reading(2.0).interval(0.999) == (2.0, 2.0)
    assert Reading(2.0, 0.5).interval(0.5) == (1.5, 2.5)
    assert Reading(2.0, None).interval(0.95) == (-math.inf, math.inf)
    assert [Reading(2.0, e).is_sampled for e in (0.0, 0.5, None)] == [False, False, True]


@pytest.mark.parametrize("confidence", [0.9, 0.99, 0.9999])
def test_stored_intervals_are_stretched_by_students_quantiles(confidence: float):
    reading = Reading(10.0, 1.0, (9.0, 13.0), 16)
    stretch = stats.t.ppf((1 + confidence) / 2, 15) / stats.t.ppf(0.975, 15)
    assert reading.interval(confidence) == pytest.approx((10 - stretch, 10 + 3 * stretch))
    assert reading.interval(0.95) == (9.0, 13.0)


def test_an_unknown_number_of_probes_counts_as_two():
    reading = Reading(0.0, 1.0, (-1.0, 1.0))
    assert reading.interval(0.99) == dataclasses.replace(reading, num_probes=2).interval(0.99)
    assert reading.interval(0.99)[1] > 5


def test_the_ratio_of_norms_takes_both_intervals_at_half_the_level():
    nme, gn = Reading(3.0, 0.3, (2.4, 3.6), 32), Reading(2.0, 0.1, (1.8, 2.2), 16)
    found = metrics.ratio(nme, gn)
    assert found is not None
    (a, b), (c, d) = nme.interval(0.975), gn.interval(0.975)
    assert found.value == 1.5
    assert found.ci95 == pytest.approx((a / d, b / c))
    assert found.error == pytest.approx(1.5 * (0.3 / 3 + 0.1 / 2))
    assert found.num_probes == 16


def test_the_ratio_over_nothing_and_over_what_may_be_nothing():
    nme = Reading(3.0, 0.3, (2.4, 3.6), 32)
    assert metrics.ratio(nme, Reading(0.0, 0.0, (0.0, 0.0), 32)) is None
    vague = metrics.ratio(nme, Reading(1.0, 1.0, (0.0, 3.0), 32))
    assert vague is not None
    assert vague.ci95 is not None
    assert vague.ci95[1] == math.inf
    assert metrics.ratio(nme, Reading(1.0, None, None, 1)) == Reading(3.0, None, None, 32)
