"""A gate as JSON, and as people read it."""

import json
from io import StringIO

from msgspec import structs
from rich.console import Console

from hessdiag import GateReport
from hessdiag.gates.gate_run import review
from hessdiag.show import terminal
from tests.gates.verdict_cases import gate_of
from tests.results import PROVENANCE


def shown(report: GateReport, width: int = 120) -> str:
    out = StringIO()
    Console(file=out, width=width).print(terminal.render(report.document()))
    return out.getvalue()


def test_the_json_holds_everything_and_no_infinity(gate: GateReport):
    payload = json.loads(gate.of(PROVENANCE).on("run/model.safetensors").to_json())
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


def test_notes_say_what_qualifies_the_verdicts(gate: GateReport):
    assert "null" in gate.notes[0]
    assert "no limits" in gate_of().notes[0]
    stored = review(gate, {"max": {"loss": 1}})
    assert "nothing was measured" in stored.notes[0]


def test_the_table_has_a_line_for_each_limit(gate: GateReport):
    text = shown(gate.on("model.safetensors"))
    first, header, *rows = text.splitlines()
    assert first.rstrip() == "the gate fails on model.safetensors"
    assert header.split() == ["verdict", "metric", "value", "limit", "why"]
    assert [row.split()[0] for row in rows[:4]] == ["pass", "fail", "inconclusive", "fail"]
    assert "10.0 ± 1.0 → 10.0 ± 1.0" in rows[2]
    assert "≤ +10 %" in rows[2]
    assert "missing" in rows[3]
    assert "64 probes" in text


def test_without_limits_the_readings_are_shown(gate: GateReport):
    text = shown(structs.replace(gate_of(), readings=gate.readings))
    assert "the gate passes" in text
    (line,) = [line for line in text.splitlines() if line.startswith("hessian.trace")]
    assert "10.0 ± 1.0" in line


def test_a_hostile_name_steers_no_terminal(hostile: GateReport):
    subject = "run/\x1b[2J\n::error::pwn ##[error]x.safetensors" * 4
    for width in (40, 120, 1000):
        text = shown(hostile.on(subject), width)
        assert not {"\x1b", "\x00", "\x07", "\r"} & set(text)
        assert not [line for line in text.splitlines() if line.lstrip().startswith("::")]
        assert "##[" not in text
