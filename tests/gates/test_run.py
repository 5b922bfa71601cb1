"""The gate on networks and on stored reports: least work, budgets, what is missing."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import hessdiag
from hessdiag import GateReport, InputError, results
from hessdiag.curvature import exact_trace
from hessdiag.gates import gate_run
from hessdiag.gates.gate_run import review
from hessdiag.gates.limits import Limit
from hessdiag.linalg.trace import Samples
from hessdiag.metrics import metric_table
from hessdiag.spectra import trace_sampling
from tests.cases import BY_NAME, labels, normal, seeded, split
from tests.oracles import truth_of

CASE = "mlp-gelu"
TRACE = float(truth_of(CASE).hessian.trace())
GN = float(truth_of(CASE).gn.trace())


def gated(limits: Any = (), case: str = CASE, **options: Any) -> GateReport:
    model, batches, loss = BY_NAME[case]
    return hessdiag.gate(model, batches, limits, loss=loss, **options)


def verdicts(report: GateReport) -> list[str]:
    return [finding.verdict for finding in report.findings]


@pytest.fixture
def spectra(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Note the settings of every spectrum that the gate takes."""
    seen: list[dict[str, Any]] = []

    def spectrum(*args: Any, **options: Any):
        seen.append(options)
        return hessdiag.spectrum(*args, **options)

    monkeypatch.setattr(gate_run, "spectrum", spectrum)
    return seen


def test_verdicts_agree_with_the_dense_truth():
    truth = truth_of(CASE)
    norm = float(truth.nme.norm())
    values = {
        "hessian.trace": TRACE,
        "nme.frobenius_norm": norm,
        "nme_to_gn": norm / float(truth.gn.norm()),
        "gn.lambda_max": float(torch.linalg.eigvalsh(truth.gn)[-1]),
    }
    limits = {
        "max": {name: 3 * abs(value) for name, value in values.items()},
        "min": {name: 3 * abs(value) for name, value in values.items()},
    }
    found = gated(limits)
    assert verdicts(found) == ["pass"] * 4 + ["fail"] * 4
    for finding in found.findings:
        assert finding.interval is not None
        low, high = finding.interval
        assert low - 1e-12 <= values[finding.limit.metric] <= high + 1e-12


def test_only_what_the_limits_need_is_computed(spectra: list[dict[str, Any]]):
    gated({"max": {"nme.trace": 1e9, "gn.top.2": 1e9}})
    lanczos, sampling = spectra
    assert (lanczos["parts"], lanczos["top_k"], lanczos["num_probes"]) == (("gn",), 3, 1)
    assert (sampling["parts"], sampling["top_k"], sampling["num_probes"]) == (("nme",), 0, 32)
    assert not any(taken["density"] or taken["per_layer"] for taken in spectra)


def test_loss_and_accuracy_take_no_sampling(spectra: list[dict[str, Any]]):
    found = gated({"max": {"loss": 1e9}, "min": {"accuracy": 1.5}})
    assert verdicts(found) == ["pass", "fail"]
    assert [taken["num_probes"] for taken in spectra] == [1]
    assert found.num_probes == 0


def test_probes_go_on_until_the_limit_is_decided_or_the_budget_is_spent():
    clear, close = (gated({"max": {"hessian.trace": factor * TRACE}}) for factor in (3, 1.25))
    assert clear.num_probes == 32 < close.num_probes
    assert verdicts(clear) == verdicts(close) == ["pass"]
    undecided = gated({"max": {"hessian.trace": TRACE}}, max_probes=100)
    assert (verdicts(undecided), undecided.num_probes) == (["inconclusive"], 100)


def test_an_exact_trace_takes_no_probes():
    limits = {"max": {"gn.trace": 0.999 * GN}, "min": {"gn.trace": 0.999 * GN}}
    found = gated(limits)
    assert (verdicts(found), found.num_probes) == (["fail", "pass"], 0)
    assert found.findings[0].interval == pytest.approx((GN, GN))


def test_a_limit_on_a_trace_goes_on_without_products(
    spectra: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    """After the first look, where probes by example have less variance."""
    monkeypatch.setattr(exact_trace, "MOST_OUTPUTS", 0)
    data, model = split(normal(64, 6), labels(64), 64), seeded(lambda: torch.nn.Linear(6, 3))
    model = model.double()
    trace = float(hessdiag.Decomposition(model, data).operator("hessian").dense().trace())
    limits = {"max": {"hessian.trace": 1.1 * trace}}
    hessdiag.gate(model, data, limits, max_probes=100)  # too few for forms to tell
    for gain, expected in ((0.0, True), (1e9, False)):
        monkeypatch.setattr(trace_sampling, "_CERTAIN_GAIN", gain)
        found = hessdiag.gate(model, data, limits)
        assert verdicts(found) == ["pass"]
        low, high = found.findings[0].interval or (math.inf, -math.inf)
        assert low <= trace <= high
        samples = (found.readings["hessian.trace"].samples or {})["hessian"]
        assert (samples.forms is not None) is expected
        assert (len(samples.quadratic_forms) == 32) is expected
        assert found.num_probes == len(samples) > 32
    assert [taken["traces_alone"] for taken in spectra] == [False, True, True]


def test_no_probes_are_added_when_the_time_is_over():
    found = gated({"max": {"hessian.trace": TRACE}}, max_seconds=0)
    assert (verdicts(found), found.num_probes) == (["inconclusive"], 32)


def test_the_same_seed_gives_the_same_findings():
    limits = {"max": {"hessian.trace": TRACE}}
    one, same, other = (gated(limits, max_probes=48, seed=seed).findings for seed in (0, 0, 1))
    assert one == same != other


def test_without_limits_all_is_measured_and_the_gate_passes():
    found = gated()
    assert (found.verdict, found.findings, found.num_probes) == ("pass", (), 256)
    assert set(found.readings) == set(metric_table.NAMES)


def test_layers_and_shares_are_measured():
    found = gated(
        {
            "max": {
                "hessian.layers.fc1.weight.trace": 1e9,
                "gn.layers.fc9.weight.trace": 1e9,
                "sparsity.nonzero": 0.5,
                "sparsity.above": 1.0,
                "perturbation.gap": 1e9,
            }
        }
    )
    assert verdicts(found) == ["pass", "fail", "fail", "pass", "pass"]
    assert found.findings[1].reason == "it is missing: there is no such parameter"
    assert found.readings["sparsity.nonzero"].value == 1.0  # GELU's φ'' is everywhere


def test_an_accuracy_that_is_not_there_fails():
    found = gated({"min": {"accuracy": 0.0}}, case="mlp-tanh-mse")
    assert verdicts(found) == ["fail"]
    assert "not classes" in found.findings[0].reason


def test_the_ratio_over_a_part_that_is_zero_fails():
    model, x = torch.nn.Linear(2, 1), torch.ones(4, 2)
    found = hessdiag.gate(model, [(x, x)], {"max": {"nme_to_gn": 1.0}}, loss=lambda z, _: z.mean())
    assert verdicts(found) == ["fail"]
    assert found.findings[0].reason == "it is missing: the Gauss-Newton part is zero"


# --- baselines -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def baseline() -> dict[str, Any]:
    return json.loads(gated().to_json())


def test_a_network_has_not_increased_over_itself(baseline: dict[str, Any]):
    limits = {"max-increase": {"hessian.trace": "80%", "hessian.top.0": 1e-6, "loss": "0%"}}
    found = gated(limits, baseline=baseline)
    assert verdicts(found) == ["pass"] * 3
    assert found.findings[0].baseline is not None


def test_an_increase_is_noticed(baseline: dict[str, Any]):
    before = json.loads(json.dumps(baseline))
    for reading in before["readings"].values():
        reading["value"] -= abs(reading["value"]) / 2 + 1
        reading["ci95"] = reading["ci95"] and [reading["value"]] * 2
    found = gated({"max-increase": {"loss": "10%", "gradient.norm": 0.5}}, baseline=before)
    assert verdicts(found) == ["fail"] * 2


def test_what_the_baseline_lacks_fails_and_is_measured_all_the_same(baseline: dict[str, Any]):
    lacking = {**baseline, "readings": {}}
    limits = {"max-increase": {"loss": "10%", "hessian.trace": "10%"}}
    found = gated(limits, baseline=lacking)
    assert verdicts(found) == ["fail", "fail"]
    assert all("missing in the baseline" in finding.reason for finding in found.findings)
    assert all(finding.reading is not None for finding in found.findings)


# --- stored reports ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    model, batches, loss = BY_NAME[CASE]
    report = hessdiag.spectrum(model, batches, loss=loss, num_probes=32, top_k=1, density=False)
    return json.loads(report.to_json())


def test_a_stored_report_is_judged_like_a_fresh_one(stored: dict[str, Any]):
    forms, squares = (
        stored["parts"]["hessian"]["samples"][key] for key in ("quadratic_forms", "squared_norms")
    )
    low, high = Samples(tuple(forms), tuple(squares)).trace_interval(0.05)
    kept, open_, broken = high + 1e-9, (low + high) / 2, low - 1e-9
    found = [verdicts(review(stored, {"max": {"hessian.trace": b}})) for b in (kept, open_, broken)]
    assert found == [["pass"], ["inconclusive"], ["fail"]]
    assert review(stored, {"max": {"hessian.trace": kept}}).num_probes == 0


def test_the_level_is_shared_by_the_sampled_limits_of_a_stored_report(stored: dict[str, Any]):
    limits = {"max": {"hessian.trace": 1e9, "gn.trace": 1e9, "loss": 1e9}}
    found = review(stored, limits, confidence=0.9).findings
    alone = review(stored, {"max": {"hessian.trace": 1e9, "loss": 1e9}}, confidence=0.95).findings
    assert found[0].interval == pytest.approx(alone[0].interval)  # 0.1 / 2 is 0.05


def test_a_report_without_samples_decides_nothing_that_was_sampled(stored: dict[str, Any]):
    """As those of hessdiag 0.1."""
    parts = {
        name: {key: value for key, value in part.items() if key != "samples"}
        for name, part in stored["parts"].items()
    }
    limits = {"max": {"hessian.trace": 1e9, "nme_to_gn": 1e9, "hessian.lambda_max": 1e9}}
    found = review({**stored, "parts": parts}, limits)
    assert verdicts(found) == ["inconclusive", "inconclusive", "pass"]
    assert "measure anew" in found.findings[0].reason


def test_what_a_stored_report_lacks_fails(stored: dict[str, Any]):
    limits = {"max": {"sparsity.nonzero": 1, "nme.top.3": 1}}
    assert verdicts(review(stored, limits)) == ["fail", "fail"]


def test_a_stored_report_over_a_baseline(stored: dict[str, Any]):
    found = review(stored, {"max-increase": {"loss": 0, "hessian.trace": "1%"}}, baseline=stored)
    assert verdicts(found) == ["pass", "inconclusive"]
    interval = found.findings[1].interval
    assert interval is not None
    assert interval[0] < 0 < interval[1]


def test_a_single_probe_concludes_nothing():
    model, batches, loss = BY_NAME[CASE]
    report = hessdiag.spectrum(model, batches, loss=loss, num_probes=1, top_k=0, density=False)
    found = review(json.loads(report.to_json()), {"max": {"hessian.trace": 1e9}})
    assert verdicts(found) == ["inconclusive"]
    assert found.findings[0].interval == (-math.inf, math.inf)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"confidence": 1.0}, "confidence is out of range"),
        ({"confidence": 0.0}, "confidence is out of range"),
        ({"confidence": math.nan}, "confidence is out of range"),
        ({"max_probes": 31}, "max_probes` is out of range.*32 to 100,000"),
        ({"max_probes": 10**9}, "max_probes` is out of range"),
        ({"max_seconds": -1}, "max_seconds` is out of range"),
        ({"max_seconds": math.nan}, "max_seconds` is out of range"),
        ({"limits": [Limit("max-increase", "loss", 1)]}, "no baseline.*--write-baseline"),
        (
            {"limits": [Limit("max-increase", "loss", 1)], "baseline": "none.json"},
            "the baseline none.json cannot be read",
        ),
        ({"limits": {"max": {"los": 1}}}, "unknown metric.*did you mean loss"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(InputError) as caught:
        gated(**options)
    assert re.search(words, str(caught.value), re.DOTALL), caught.value


@pytest.mark.parametrize(
    "limit",
    [
        ("mox", "loss", 1.0),
        ("max", "lass", 1.0),
        ("max", "loss", math.inf),
        ("max", "loss", 1, True),
    ],
    ids=str,
)
def test_bad_limits_are_refused(limit: tuple[Any, ...]):
    with pytest.raises(InputError):
        Limit(*limit)


def test_a_baseline_may_be_a_file(tmp_path: Path, stored: dict[str, Any]):
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(stored))
    found = review(stored, {"max-increase": {"loss": 0}}, baseline=str(path))
    assert found.verdict == "pass"


def test_batches_that_can_be_read_once_serve_all_passes():
    model, batches, loss = BY_NAME[CASE]
    limits = {"max": {"hessian.trace": 1e6, "hessian.lambda_max": 1e6, "sparsity.nonzero": 1}}
    found = hessdiag.gate(model, iter(list(batches)), limits, loss=loss)
    assert found.verdict == "pass"
    assert found.num_samples == gated(limits).num_samples


@pytest.mark.parametrize(
    ("kind", "held", "metric", "found"),
    [
        ("spectrum", {"loss": {"value": 0.3}}, "loss", ["pass", "fail"]),
        ("spectrum", {"loss": {"value": 0.3}}, "gradient.norm", ["fail", "fail"]),
        ("train", {"epochs": [{"train_loss": 0.3}]}, "loss", ["pass", "fail"]),
        ("gate", {"readings": {"loss": {"value": 0.3}}}, "loss", ["pass", "fail"]),
        (
            "spectrum",
            {"parts": {"gn": {"trace": {"value": 0.3}}}},
            "gn.trace",
            ["inconclusive"] * 2,
        ),
        (
            "spectrum",
            {"parts": {"gn": {"top": [{"value": 0.3, "interval": [0.2, 0.4]}]}}},
            *("gn.lambda_max", ["pass", "fail"]),
        ),
    ],
)
def test_a_report_made_by_hand_need_hold_no_more_than_is_asked_for(
    kind: str, held: dict[str, Any], metric: str, found: list[str]
):
    report = {"schema": f"hessdiag.{kind}/1", **held}
    for limit, verdict in zip((1.0, 0.1), found, strict=True):
        assert review(report, {"max": {metric: limit}}).verdict == verdict
    with pytest.raises(InputError, match="damaged"):
        results.taken(report)
