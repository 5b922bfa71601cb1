"""What services read: their schemas, and names that would like to be more than names."""

import hashlib
import html
import json
import re
from xml.etree import ElementTree as ET

import pytest

from hessdiag.gates.gate_result import GateReport
from hessdiag.gates.gate_services import gitlab, junit, summary, workflow_commands
from tests.gates.verdict_cases import HOSTILE, gate_of

PATH = "run/model.safetensors"
# the rules of junit-10.xsd: attributes an element may have, those it must, and its children
XSD: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": (
        {"name", "time", "tests", "failures", "disabled", "errors"},
        set(),
        {"testsuite"},
    ),
    "testsuite": (
        {
            *("name", "tests", "failures", "errors", "time", "disabled", "skipped", "timestamp"),
            *("hostname", "id", "package"),
        },
        {"name", "tests"},
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "testcase": (
        {"name", "assertions", "time", "classname", "status"},
        {"name"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    "failure": ({"type", "message"}, set(), set()),
    "error": ({"type", "message"}, set(), set()),
}


def valid(text: str) -> ET.Element:
    """Check a document against the rules."""
    root = ET.fromstring(text.encode())
    assert root.tag == "testsuites"
    for element in root.iter():
        allowed, required, children = XSD[element.tag]
        assert required <= set(element.attrib) <= allowed, element.tag
        assert {child.tag for child in element} <= children
        for count in {"tests", "failures", "errors"} & set(element.attrib):
            assert element.attrib[count].isdigit()
        assert re.fullmatch(r"\d+\.\d+", element.attrib.get("time", "0.0"))
    return root


def test_the_junit_file_keeps_the_common_schema(gate: GateReport):
    text = junit(gate, PATH)
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n')
    root = valid(text)
    (suite,) = root
    for element in (root, suite):
        assert element.attrib.items() >= {"tests": "4", "failures": "2", "errors": "1"}.items()
    assert suite.attrib["name"] == PATH
    assert [[child.tag for child in case] for case in suite] == [
        *([], ["failure"], ["error"], ["failure"])
    ]
    assert [case.attrib["name"] for case in suite] == [
        "accuracy ≥ 0.5",
        "hessian.trace ≤ 5",
        "nme.trace ≤ +10 %",
        "gn.trace ≤ 5",
    ]
    assert "it is too large" in suite[1][0].attrib["message"]


def test_a_gate_without_limits_is_a_suite_without_cases():
    (suite,) = valid(junit(gate_of(), PATH))
    assert (suite.attrib["tests"], len(suite)) == ("0", 0)


def test_annotations_are_workflow_commands(gate: GateReport):
    assert workflow_commands(gate, PATH) == [
        "::error title=hessdiag gate%3A fail::"
        "run/model.safetensors: hessian.trace ≤ 5: 10.0 ± 1.0; it is too large",
        "::warning title=hessdiag gate%3A inconclusive::"
        "run/model.safetensors: nme.trace ≤ +10 %25: 10.0 ± 1.0 → 10.0 ± 1.0; who knows",
        "::error title=hessdiag gate%3A fail::"
        "run/model.safetensors: gn.trace ≤ 5: missing; it is missing: null",
    ]


def test_the_summary_is_a_table_in_markdown(gate: GateReport):
    lines = summary(gate, PATH).splitlines()
    assert lines[0] == "### hessdiag gate: fail"
    assert lines[2] == PATH
    rows = [html.unescape(line) for line in lines[6:] if line]
    assert rows[0] == "| pass | accuracy | 0.75 | ≥ 0.5 | it is 0.75 |"
    assert rows[2] == (
        "| inconclusive | nme.trace | 10.0 ± 1.0 → 10.0 ± 1.0 | ≤ +10 % | who knows |"
    )
    assert len(rows) == 4


def test_gitlab_gets_what_does_not_pass(gate: GateReport):
    issues = json.loads(gitlab(gate, PATH))
    assert [issue["severity"] for issue in issues] == ["major", "minor", "major"]
    for issue in issues:
        assert set(issue) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert issue["location"] == {"path": PATH, "lines": {"begin": 1}}
        assert len(issue["fingerprint"]) == len(hashlib.sha256().hexdigest())
    assert len({issue["fingerprint"] for issue in issues}) == 3
    assert json.loads(gitlab(gate, PATH)) == issues
    assert json.loads(gitlab(gate_of(), PATH)) == []


# --- hostile names -------------------------------------------------------------------------------

PATHS = ["x\n::error::y", "x\ny|<b>", f"run/{HOSTILE}\ud8ff\ufffe.safetensors"]


@pytest.mark.parametrize("path", PATHS)
def test_xml_stays_xml(hostile: GateReport, path: str):
    (suite,) = valid(junit(hostile, path))
    assert "<script>" in suite[0].attrib["name"]
    assert "\\x1b" in suite[0].attrib["name"]


@pytest.mark.parametrize("path", PATHS)
def test_an_annotation_stays_one_command(hostile: GateReport, path: str):
    (line,) = workflow_commands(hostile, path)
    assert not set("\r\n\x1b\x00") & set(line)
    command, properties, data = re.fullmatch(r"::(\w+) (title=[^:]*)::(.*)", line).groups()  # type: ignore[union-attr]
    assert (command, properties) == ("error", "title=hessdiag gate%3A fail")
    assert "%0A" not in data
    assert "%250A" in data  # as the name has it


@pytest.mark.parametrize("path", PATHS)
def test_markdown_keeps_its_table(hostile: GateReport, path: str):
    lines = summary(hostile, path).splitlines()
    assert len(lines) == 8
    row = lines[6]
    assert row.count("|") == 6
    assert not set("<>`*_[]\x1b\x00") & set(row + lines[2])
    assert "http:" not in row  # which would become a link
    assert "<script>alert(1)</script>" in html.unescape(row)


@pytest.mark.parametrize("path", PATHS)
def test_gitlabs_json_stays_json(hostile: GateReport, path: str):
    text = gitlab(hostile, path)
    assert text.isascii()
    assert json.loads(text)[0]["location"]["path"] == path
