"""Hostile text in every field of every report, through all that shows it: it stays text."""

import json
import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from hessdiag import codec, results
from hessdiag.cli import console, stdio
from hessdiag.cli.options import OutputOptions
from hessdiag.cli.results import show
from hessdiag.errors import InputError
from hessdiag.gates import gate_services as services
from hessdiag.gates.gate_result import GateReport
from hessdiag.show import markdown
from hessdiag.show.page import page
from tests.results import RESULTS

HOSTILE = {
    "commands": "::error::x\n::warning::x\r ::notice::x\u2028::debug::x%0A##[error]x##vso[x]",
    "steering": "a\x1b[31m\x07\x9b2J\x00\u202eb\u2066\r\v\f\x85",
    "markup": "]]><script>alert(1)</script><img src=x onerror=y>'\"&lt; | `x` | $(x) | \n# [y](z)",
    "broken": "\ud800\udfff\ufffe" + "x" * 3000,
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """List where texts, and names of what a table holds, stand in JSON."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, str):
            yield *path, key
        elif isinstance(item, dict | list):
            yield from places(item, (*path, key))
    if isinstance(value, dict) and value:
        yield *path, None


def poisoned(result: results.Result, text: str, *, drawn: bool = False) -> results.Result:
    """Put ``text`` wherever a report takes any text; or wherever it is still drawn then."""
    payload = json.loads(result.to_json())
    for path in list(places(payload)):
        within = payload
        for key in path[:-1]:
            within = within[key]
        kept = dict(within) if isinstance(within, dict) else list(within)
        within[text if path[-1] is None else path[-1]] = (
            next(iter(within.values())) if path[-1] is None else text
        )
        try:
            taken = codec.convert(type(result), payload, what="it")
            if drawn:
                taken.document()
        except InputError:
            within.clear()
            within.update(kept) if isinstance(within, dict) else within.extend(kept)
    return results.taken(payload)


def is_inert(shown: str) -> bool:
    """Tell whether a log shows text alone, and CI takes no line of it for a command."""
    obeyed = any(
        line.lstrip().startswith("::") for line in re.split(r"[\n\r\v\f\x85\u2028]", shown)
    )
    return shown.replace("\n", "").isprintable() and not obeyed and not re.search(r"##\w*\[", shown)


FIRST = {name.partition(",")[0]: name for name in reversed(RESULTS)}.values()
"""One report of each kind."""


@pytest.mark.parametrize("name", FIRST)
def test_all_hostile_text_at_once(name: str, capsys: pytest.CaptureFixture[str]):
    test_hostile_text_stays_text(name, "".join(HOSTILE.values()), capsys)


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", RESULTS)
def test_hostile_text_stays_text(name: str, text: str, capsys: pytest.CaptureFixture[str]):
    result = poisoned(RESULTS[name](), text)
    try:
        document = result.document()
    except InputError:  # a name that is looked up where it is drawn
        document = (result := poisoned(RESULTS[name](), text, drawn=True)).document()
    with stdio.lasting():
        show(result, OutputOptions())
        console.note(document.title)
    assert is_inert("".join(capsys.readouterr()))
    with stdio.lasting():
        show(result, OutputOptions(json="-"))
    assert is_inert(shown := capsys.readouterr().out.replace("\\u2028", ""))
    assert json.loads(shown)["schema"] == result.schema
    for html in (page([document]), page([document, document], title=text)):
        assert html.replace("\n", "").isprintable()
        assert not re.search(r"<script|<img|\]\]>", html)
    lines = markdown.render(document).splitlines()
    assert not [line for line in lines if re.match(r"\s*::|#(?!## hessdiag)", line) or "<" in line]
    assert "".join(lines).isprintable()
    if isinstance(result, GateReport):
        check_services(result, text)


def check_services(report: GateReport, subject: str) -> None:
    ET.fromstring(services.junit(report, subject))
    json.loads(services.gitlab(report, subject))
    commands = services.workflow_commands(report, subject)
    assert all(re.match("::(error|warning) ", line) and line.isprintable() for line in commands)
    assert not re.search(r"##\w*\[", "".join(commands))
    rows = services.summary(report, subject).splitlines()[4:]
    assert {row.count("|") for row in rows if row} == {6}
