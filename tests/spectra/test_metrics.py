"""Metrics by name: which there are, the least spectrum that holds them, their values."""

from typing import Any

import pytest

import hessdiag
from hessdiag import Report
from hessdiag.errors import InputError
from hessdiag.spectra import metrics
from hessdiag.spectra.metrics import Metric, Reading
from tests.cases import BY_NAME

CASE = BY_NAME["mlp-gelu"]


def spectrum(**settings: Any) -> Report:
    model, batches, loss = CASE
    return hessdiag.spectrum(model, batches, loss=loss, num_probes=4, **settings)


def metric(name: str) -> Metric:
    found = metrics.parse(name)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def report() -> Report:
    return spectrum(top_k=3, density=False)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("hessian.trace", Metric("hessian", "trace")),
        ("gn.frobenius_norm", Metric("gn", "frobenius_norm")),
        ("nme.lambda_max", Metric("nme", "top", 0)),
        ("nme.lambda_min", Metric("nme", "bottom", 0)),
        ("hessian.top.0", Metric("hessian", "top", 0)),
        ("gn.top.12", Metric("gn", "top", 12)),
        ("nme.bottom.2", Metric("nme", "bottom", 2)),
    ],
)
def test_a_name_is_parsed(name: str, wanted: Metric) -> None:
    assert metrics.parse(name) == wanted


@pytest.mark.parametrize(
    "name",
    [
        *("", "loss", "trace", "nme", "nme.", ".trace", "NME.trace", "hesian.trace"),
        *("nme.trace ", " nme.trace", "nme.trace\n", "nme.trace.0", "nme.lambda_max.1"),
        *("nme.top", "nme.top.", "nme.top.-1", "nme.top.1.5", "nme.top.10000", "nme.bottom.x"),
        "sparsity.nonzero",
    ],
)
def test_other_names_are_no_metrics(name: str) -> None:
    assert metrics.parse(name) is None


@pytest.mark.parametrize(
    ("names", "parts", "top_k"),
    [
        ((), (), 0),
        (("nme.trace",), ("nme",), 0),
        (("nme.trace", "nme.frobenius_norm", "hessian.trace"), ("hessian", "nme"), 0),
        (("gn.lambda_min",), ("gn",), 1),
        (("gn.top.3", "hessian.lambda_max"), ("hessian", "gn"), 4),
        (("gn.top.1", "gn.bottom.2", "gn.trace"), ("gn",), 3),
    ],
    ids=str,
)
def test_settings_are_the_least_that_serve(
    names: tuple[str, ...], parts: tuple[str, ...], top_k: int
) -> None:
    found = metrics.settings(map(metric, names))
    assert found == {"parts": parts, "top_k": top_k, "density": False}


@pytest.mark.parametrize("name", ["hessian.trace", "gn.frobenius_norm", "nme.bottom.1", "gn.top.2"])
def test_the_least_spectrum_holds_what_it_was_made_for(name: str, report: Report) -> None:
    wanted = metrics.read(report, metric(name))
    found = metrics.read(spectrum(**metrics.settings([metric(name)])), metric(name))
    assert found.value == pytest.approx(wanted.value, rel=1e-6)


@pytest.mark.parametrize("part", ["hessian", "gn", "nme"])
def test_readings_are_the_reports_numbers(part: str, report: Report) -> None:
    of = report.parts[part]
    for name, estimate in (("trace", of.trace), ("frobenius_norm", of.frobenius_norm)):
        found = metrics.read(report, metric(f"{part}.{name}"))
        assert found == Reading(estimate.value, estimate.stderr, estimate.ci95)
        assert found.error
    for index in range(3):
        for end in ("top", "bottom"):
            eigenvalue = getattr(of, end)[index]
            found = metrics.read(report, metric(f"{part}.{end}.{index}"))
            assert found == Reading(eigenvalue.value, eigenvalue.residual, None)
    for alias, end in (("lambda_max", "top"), ("lambda_min", "bottom")):
        found = metrics.read(report, metric(f"{part}.{alias}"))
        assert found == metrics.read(report, metric(f"{part}.{end}.0"))


@pytest.mark.parametrize("end", ["top", "bottom"])
def test_an_eigenvalue_that_is_not_there_is_refused(end: str, report: Report) -> None:
    metrics.read(report, metric(f"gn.{end}.2"))
    with pytest.raises(InputError, match=rf"no eigenvalue {end}\.3 of gn(?s:.)*3 of them"):
        metrics.read(report, metric(f"gn.{end}.3"))


def test_a_reading_is_scaled_with_its_error() -> None:
    assert Reading(3.0, 0.5, (2.0, 5.0)).times(4) == Reading(12.0, 2.0, (8.0, 20.0))
    assert Reading(3.0, None).times(4) == Reading(12.0, None)
    assert Reading(3.0).times(4) == Reading(12.0, 0.0)
