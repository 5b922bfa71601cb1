"""What services read of a gate: JUnit XML, GitHub's annotations and summary, GitLab's JSON."""

from __future__ import annotations

import hashlib
import json
from xml.etree import ElementTree as ET

from hessdiag.gates.gate_document import value
from hessdiag.gates.gate_result import GateReport, Judgement
from hessdiag.gates.verdicts import FAIL, INCONCLUSIVE, PASS
from hessdiag.show.markdown import escape as _cell
from hessdiag.show.wording import one_line

_ELEMENTS = {FAIL: "failure", INCONCLUSIVE: "error"}
_COMMANDS = {FAIL: "error", INCONCLUSIVE: "warning"}
_SEVERITIES = {FAIL: "major", INCONCLUSIVE: "minor"}


def junit(report: GateReport, subject: str) -> str:
    """Write a test suite with a case for each limit, by the schema of Jenkins (junit-10.xsd).

    A limit that is broken is a ``failure``, one that cannot be decided an ``error``.
    """
    counts = {
        "tests": str(len(report.findings)),
        "failures": str(sum(finding.verdict == FAIL for finding in report.findings)),
        "errors": str(sum(finding.verdict == INCONCLUSIVE for finding in report.findings)),
        "time": f"{report.seconds:.3f}",
    }
    suites = ET.Element("testsuites", {"name": "hessdiag gate", **counts})
    suite = ET.SubElement(suites, "testsuite", {"name": one_line(subject), **counts})
    for finding in report.findings:
        name = one_line(f"{finding.limit.metric} {finding.limit.text}")
        case = ET.SubElement(suite, "testcase", {"name": name, "classname": "hessdiag.gate"})
        if finding.verdict != PASS:
            about = {"type": finding.verdict, "message": one_line(_message(finding))}
            ET.SubElement(case, _ELEMENTS[finding.verdict], about)
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(suites, "unicode")}\n'


def workflow_commands(report: GateReport, subject: str) -> list[str]:
    """Write GitHub's workflow commands for what does not pass: errors, and warnings of doubt."""
    return [
        f"::{_COMMANDS[finding.verdict]} title={_property(f'hessdiag gate: {finding.verdict}')}::"
        + _data(f"{one_line(subject)}: {one_line(_message(finding))}")
        for finding in report.findings
        if finding.verdict != PASS
    ]


def summary(report: GateReport, subject: str) -> str:
    """Write the gate as Markdown, a table with a row for each limit."""
    lines = [
        f"### hessdiag gate: {report.verdict}",
        "",
        _cell(subject),
        "",
        "| verdict | metric | value | limit | why |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {finding.verdict} | {_cell(finding.limit.metric)} | {_cell(value(finding))} "
        f"| {_cell(finding.limit.text)} | {_cell(finding.reason)} |"
        for finding in report.findings
    ]
    return "\n".join(lines) + "\n\n"


def gitlab(report: GateReport, subject: str) -> str:
    """Write what does not pass in GitLab's form of code quality reports."""
    issues = [
        {
            "description": _message(finding),
            "check_name": f"hessdiag-gate-{finding.limit.kind}",
            "fingerprint": hashlib.sha256(
                ascii((subject, finding.limit.kind, finding.limit.metric)).encode()
            ).hexdigest(),
            "severity": _SEVERITIES[finding.verdict],
            "location": {"path": subject, "lines": {"begin": 1}},
        }
        for finding in report.findings
        if finding.verdict != PASS
    ]
    return json.dumps(issues, indent=2) + "\n"


def _message(finding: Judgement) -> str:
    limit = finding.limit
    return f"{limit.metric} {limit.text}: {value(finding)}; {finding.reason}"


def _data(text: str) -> str:
    for sign, code in {"%": "%25", "\r": "%0D", "\n": "%0A", "##": "#\\#"}.items():
        text = text.replace(sign, code)
    return text


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
