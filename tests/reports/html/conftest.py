"""A small report of every kind, as JSON gives it back."""

import json
from typing import Any

import pytest

from hessdiag import Report
from hessdiag.metadata import Provenance
from hessdiag.reports.html.sources import Source
from hessdiag.reports.payload import dumps, finite

Payload = dict[str, Any]


def train_payload(origin: Payload) -> Payload:
    def epoch(number: int) -> Payload:
        trace = {"value": 30.0 / number, "error": 2.0, "ci95": [25.0 / number, 35.0 / number]}
        found = {"hessian.trace": trace, "nme.trace": trace, "sparsity.nonzero": {**trace}}
        return {
            **{"number": number, "step": number, "lr": 0.1, "train_loss": 1 / number},
            **{"train_accuracy": 0.5, "validation_accuracy": None, "test_accuracy": 0.25},
            **{"num_skipped": 0, "curvature": found if number != 2 else {}},
        }

    return {
        **{**origin, "schema": "hessdiag.train/1"},
        "regulariser": {
            "name": "gn-trace",
            "strengths": {"sigma2": 0.02, "kappa": 0.01, "samples": 1, "straight_through": False},
        },
        "recipe": {"name": "r", "epochs": 3, "betas": [0.9, 0.99], "nesterov": True},
        "settings": {"seed": 0},
        "epochs": [epoch(1), epoch(2), epoch(3)],
        "best_epoch": 3,
        "pac_bayes": {"value": 0.5, "alpha": {"value": 1.0, "stderr": 0.1, "ci95": [0.8, 1.2]}},
        "cost": {"seconds": 1.5},
    }


def gate_payload(origin: Payload) -> Payload:
    reading = {"value": 2.0, "error": 0.1, "ci95": [1.8, 2.2]}

    def finding(verdict: str, **changes: Any) -> Payload:
        limit = {"metric": "nme.trace", "kind": "max", "bound": 2.5, "relative": False}
        seen = {"reading": reading, "baseline": None, "interval": [1.8, 2.2]}
        return {**limit, **seen, "verdict": verdict, "reason": "it is so", **changes}

    increase = {"kind": "max-increase", "bound": 0.1, "relative": True, "baseline": reading}
    missing = finding("fail", **increase | {"reading": None, "interval": None})
    return {
        **{**origin, "schema": "hessdiag.gate/1"},
        "subject": "run/model.safetensors",
        "verdict": "fail",
        "findings": [finding("pass"), finding("inconclusive"), missing],
        "readings": {"nme.trace": reading},
        "settings": {"confidence": 0.95, "max_probes": 64},
    }


@pytest.fixture(scope="session")
def payloads(report: Report, sparse_report: Report, provenance: Provenance) -> dict[str, Payload]:
    """Every kind, and what can be odd in it."""
    spectrum = json.loads(report.of(provenance).to_json())
    origin = {key: spectrum[key] for key in ("version", "checkpoint", "model", "data")}
    nameless = {**origin, "model": dict.fromkeys(origin["model"])}
    found = {
        "gate": gate_payload(origin),
        "gate, of a report": {**gate_payload(nameless), "findings": []},
    }
    return {name: json.loads(dumps(finite(payload))) for name, payload in found.items()}


@pytest.fixture
def sources(payloads: dict[str, Payload]) -> list[Source]:
    return [Source(f"{name}.json", payload) for name, payload in payloads.items()]
