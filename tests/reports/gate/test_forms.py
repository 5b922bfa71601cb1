"""A gate as JSON and as text."""

import json
from io import StringIO

from rich.console import Console, RenderableType

from hessdiag.gates import readings
from hessdiag.gates.gate_run import GateReport, review
from hessdiag.metadata import Provenance
from hessdiag.reports.gate.schema import gate_json, notes
from hessdiag.reports.gate.text import gate_text
from hessdiag.reports.payload import dumps
from tests.reports.gate.conftest import gate_of


def shown(text: RenderableType, width: int = 120) -> str:
    out = StringIO()
    Console(file=out, width=width).print(text)
    return out.getvalue()


def test_the_json_holds_everything_and_no_infinity(gate: GateReport, provenance: Provenance):
    payload = json.loads(dumps(gate_json(gate, "run/model.safetensors", provenance)))
    assert payload["schema"] == "hessdiag.gate/1"
    assert payload["verdict"] == "fail"
    assert payload["subject"] == "run/model.safetensors"
    assert payload["checkpoint"]["num_parameters"] == 10
    assert [found["verdict"] for found in payload["findings"]] == [
        *("pass", "fail", "inconclusive", "fail")
    ]
    accuracy, trace, increase, missing = payload["findings"]
    assert (accuracy["metric"], accuracy["kind"], accuracy["bound"]) == ("accuracy", "min", 0.5)
    assert trace["interval"] == [8.0, 12.0]
    assert trace["baseline"] is missing["reading"] is missing["interval"] is None
    assert increase["relative"] is True
    assert increase["interval"] == [None, None]
    assert increase["baseline"]["ci95"] == [8.0, 12.0]
    assert payload["cost"] == {"seconds": 1.25, "num_probes": 64}


def test_a_gate_is_a_baseline(gate: GateReport):
    payload = json.loads(dumps(gate_json(gate)))
    assert readings.read(payload, "hessian.trace") == gate.findings[1].reading


def test_notes_say_what_qualifies_the_verdicts(gate: GateReport):
    assert "null" in notes(gate)[0]
    assert "no limits" in notes(gate_of())[0]
    stored = review({"schema": "hessdiag.gate/1"}, {"max": {"loss": 1}})
    assert "nothing was measured" in notes(stored)[0]


def test_the_table_has_a_line_for_each_limit(gate: GateReport):
    text = shown(gate_text(gate, "model.safetensors"))
    first, header, *rows = text.splitlines()
    assert first.rstrip() == "the gate fails on model.safetensors"
    assert header.split() == ["verdict", "metric", "value", "limit", "why"]
    assert [row.split()[0] for row in rows[:4]] == ["pass", "fail", "inconclusive", "fail"]
    assert "10.0 ± 1.0 → 10.0 ± 1.0" in rows[2]
    assert "≤ +10 %" in rows[2]
    assert "missing" in rows[3]
    assert "64 probes" in text


def test_without_limits_the_readings_are_shown(gate: GateReport):
    measured = gate_of()
    measured.readings.update(gate.readings)
    text = shown(gate_text(measured))
    assert "the gate passes" in text
    assert "hessian.trace  10.0 ± 1.0" in text


def test_a_hostile_name_steers_neither_terminal_nor_service(hostile: GateReport):
    for width in (40, 120, 1000):
        text = shown(gate_text(hostile, "run/\x1b[2J\n::error::pwn.safetensors" * 4), width)
        assert not {"\x1b", "\x00", "\x07", "\r"} & set(text)
        assert not [line for line in text.splitlines() if line.lstrip().startswith("::")]
