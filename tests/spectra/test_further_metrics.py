"""Metrics beside a spectrum: the same numbers in spectrum, compare, tracking and gate."""

import copy
import json

import pytest
import torch

import hessdiag
from hessdiag import Decomposition, InputError, results
from hessdiag.curvature.sampled_fisher import sampled_fisher
from hessdiag.curvature.scaled_curvature import adam_scale, class_traces, preconditioned_lambda_max
from hessdiag.curvature.sharpness import sharpness
from hessdiag.curvature.tangent_kernel import tangent_kernel
from hessdiag.gates import readings
from hessdiag.gates.gate_run import review
from hessdiag.metrics import metric_table
from hessdiag.metrics.metric import Missing
from hessdiag.spectra.further_metrics import Conditions, measure
from hessdiag.training import tracking
from tests.cases import BY_NAME
from tests.oracles import dense

MODEL, BATCHES, LOSS = BY_NAME["mlp-gelu"]
NAMES = (
    "sharpness.sam",
    "sharpness.adaptive",
    "sharpness.critical",
    "preconditioned.lambda_max",
    "hessian.classes.1.trace",
    "nme.classes.0.trace",
    "ntk.trace",
    "ntk.lambda_max",
    "fisher.trace",
    "fisher.nme_trace",
    "perturbation.gap",
)
SMALL = {"num_probes": 32, "top_k": 0, "density": False}


@pytest.fixture(scope="module")
def report() -> hessdiag.Report:
    return hessdiag.spectrum(MODEL, BATCHES, loss=LOSS, metrics=NAMES, **SMALL)


def test_a_spectrum_holds_what_the_library_says(report):
    decomposition = Decomposition(MODEL, BATCHES, LOSS)
    sharp, fisher = sharpness(decomposition), sampled_fisher(decomposition)
    kernel = tangent_kernel(decomposition)
    top = preconditioned_lambda_max(decomposition, adam_scale(decomposition))
    wanted = {
        "sharpness.sam": sharp.sam,
        "sharpness.adaptive": sharp.adaptive,
        "sharpness.critical": sharp.critical,
        "preconditioned.lambda_max": top.value,
        "hessian.classes.1.trace": class_traces(MODEL, BATCHES, loss=LOSS)[1].value,
        "nme.classes.0.trace": class_traces(MODEL, BATCHES, loss=LOSS, part="nme")[0].value,
        "ntk.trace": kernel.trace.value,
        "ntk.lambda_max": kernel.lambda_max.value,
        "fisher.trace": fisher.trace.value,
        "fisher.nme_trace": fisher.nme_trace.value,
    }
    assert set(report.metrics) == set(NAMES)
    for name, value in wanted.items():
        assert report.metrics[name].value == pytest.approx(value, rel=1e-9), name
    gn = report.parts["gn"].trace
    both = (report.metrics["fisher.trace"].error ** 2 + gn.stderr**2) ** 0.5
    assert abs(report.metrics["fisher.trace"].value - gn.value) < 4 * both


def test_tracking_and_gates_measure_the_same(report):
    tracked = tracking.measured(NAMES, MODEL, BATCHES, LOSS, Conditions(32, 0))
    assert {name: of.value for name, of in tracked.items()} == pytest.approx(
        {name: of.value for name, of in report.metrics.items()}, rel=1e-9
    )
    exact = ("sharpness.sam", "preconditioned.lambda_max", "ntk.lambda_max")
    sampled = ("ntk.trace", "hessian.classes.1.trace")
    for factor, verdict in ((1.0 + 1e-6, "pass"), (1.0 - 1e-6, "fail")):
        limits = {name: factor * report.metrics[name].value for name in exact}
        limits |= {name: factor**1e6 * report.metrics[name].value for name in sampled}
        found = hessdiag.gate(MODEL, BATCHES, {"max": limits}, loss=LOSS, max_probes=32)
        assert {one.verdict for one in found.findings if one.metric in exact} == {verdict}
        assert {one.verdict for one in found.findings} <= {verdict, "inconclusive"}
    wide = {name: 4 * abs(report.metrics[name].value) for name in sampled}
    assert hessdiag.gate(MODEL, BATCHES, {"max": wide}, loss=LOSS).verdict == "pass"


def test_the_gate_does_not_have_all():
    limits = {"ntk.change": 1, "hessian.classes.7.trace": 1}
    found = hessdiag.gate(MODEL, BATCHES, {"max": limits}, loss=LOSS)
    reasons = ["tracked along a run", "no example is of class 7"]
    for one, words in zip(found.findings, reasons, strict=True):
        assert one.verdict == "fail"
        assert words in one.reason


def test_the_gate_takes_the_fisher_matrix_for_what_it_is(report):
    """Drawn labels have no bound: tr F is tr G, and the NME of drawn labels 0."""
    truth = float(dense(MODEL, BATCHES, LOSS).gn.trace())
    for kind, factor in (("max", 1.5), ("min", 0.5)):
        limits = {kind: {"fisher.trace": factor * truth, "fisher.nme_trace": 0.0}}
        assert hessdiag.gate(MODEL, BATCHES, limits, loss=LOSS).verdict == "pass"
    assert (
        hessdiag.gate(MODEL, BATCHES, {"max": {"fisher.trace": truth / 2}}, loss=LOSS).verdict
        == "fail"
    )
    stored = review(report, {"max": {"fisher.trace": 10 * truth}})
    assert stored.verdict == "inconclusive"
    with pytest.raises(InputError, match="no labels to sample"):
        hessdiag.gate(MODEL, BATCHES, limits, loss=lambda z, y: (z[:, 0] - y).square().mean())


def test_perturbations_classes_and_kernels_meet_more_probes_until_they_are_decided(report):
    for name, count in (("hessian.classes.1.trace", 32), ("perturbation.gap", 128)):
        wide = {"max": {name: 20 * report.metrics[name].value}}
        found = hessdiag.gate(MODEL, BATCHES, wide, loss=LOSS)
        assert (found.verdict, found.num_probes) == ("pass", count), name
    kernel = report.metrics["ntk.trace"].value
    found = hessdiag.gate(MODEL, BATCHES, {"max": {"ntk.trace": 1.5 * kernel}}, loss=LOSS)
    assert found.verdict == "pass"
    assert found.num_probes in {64, 128, 256}
    tight = {"max": {"ntk.trace": 1.001 * kernel}}
    found = hessdiag.gate(MODEL, BATCHES, tight, loss=LOSS, max_probes=50)
    assert (found.verdict, found.num_probes) == ("inconclusive", 50)
    found = hessdiag.gate(MODEL, BATCHES, tight, loss=LOSS, max_probes=50, max_seconds=0)
    assert found.num_probes == 32


def test_the_interval_of_a_gap_holds_half_the_trace():
    trace = float(dense(MODEL, BATCHES, LOSS).hessian.trace())
    decomposition = Decomposition(MODEL, BATCHES, LOSS)
    gap = {"perturbation.trace": metric_table.parse("perturbation.trace")}
    for seed in range(2):
        reading = measure(gap, decomposition, Conditions(128, seed))["perturbation.trace"]
        low, high = gap["perturbation.trace"].interval(reading, 0.95)
        assert low < trace < high < 3 * trace


def test_reports_keep_them_for_gates_texts_and_comparisons(report, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(report.to_json())
    stored = results.read(path, hessdiag.Report)
    assert stored.metrics == report.metrics
    assert json.loads(path.read_text())["metrics"]["ntk.trace"]["num_probes"] == 32
    reading = readings.read(stored, "ntk.lambda_max")
    assert reading == report.metrics["ntk.lambda_max"]
    assert isinstance(readings.read(stored, "gn.classes.0.trace"), Missing)
    text = str(stored.document().blocks)
    assert all(name in text for name in NAMES)
    other = copy.deepcopy(MODEL)
    with torch.no_grad():
        for tensor in other.parameters():
            tensor *= 1.1
    change = hessdiag.compare(MODEL, other, BATCHES, loss=LOSS, metrics=NAMES, **SMALL)
    assert set(NAMES) < set(change.metrics)
    b = hessdiag.spectrum(other, BATCHES, loss=LOSS, metrics=NAMES, **SMALL)
    again = hessdiag.compare_reports(stored, b)
    for name in NAMES:
        wanted = b.metrics[name].value - report.metrics[name].value
        for found in (change, again):
            assert found.metrics[name].value == pytest.approx(wanted, rel=1e-6, abs=1e-9), name
    exact = change.metrics["ntk.lambda_max"]
    assert exact.interval[0] <= exact.value <= exact.interval[1]
    paired, alone = change.metrics["ntk.trace"], report.metrics["ntk.trace"]
    assert paired.error < alone.error
    assert change.metrics["sharpness.sam"].interval is None


def test_a_star_stands_for_all_classes():
    found = hessdiag.spectrum(
        MODEL, BATCHES, loss=LOSS, metrics=("gn.classes.*.trace",), num_probes=16, top_k=0
    )
    x, y = (torch.cat(both) for both in zip(*BATCHES, strict=True))
    assert set(found.metrics) == {f"gn.classes.{label}.trace" for label in y.unique().tolist()}
    for name, reading in found.metrics.items():
        own = y == int(name.split(".")[2])
        wanted = float(dense(MODEL, [(x[own], y[own])], LOSS).gn.trace())
        assert abs(reading.value - wanted) < 4 * reading.error


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gn.trace", "by itself"),
        ("sparsity.nonzero", "hessdiag sparsity"),
        ("ntk.change", "along a run"),
        ("ntk.nothing", "unknown metric"),
        ("*", "unknown metric"),
    ],
)
def test_what_is_not_to_be_asked_for(name: str, words: str):
    with pytest.raises(InputError, match=words):
        hessdiag.spectrum(MODEL, BATCHES, loss=LOSS, metrics=(name,))
    with pytest.raises(InputError):
        metric_table.further([name])
