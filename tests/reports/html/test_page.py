"""The page as a document: whole, closed to the network, and with nothing of a file's own markup."""

import copy
import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from html.parser import HTMLParser
from typing import Any

import pytest

from hessdiag.errors import InputError
from hessdiag.reports.html.page import SECTIONS, page
from hessdiag.reports.html.sources import Source

VOID = {"meta", "link"}
HOSTILE = "<script>alert(1)</script>\"'&quot; onload=x \x1b[31m\x00 \u202eesrever \ud800 {{7*7}}"
NAMES = ("gate",)


class Document(HTMLParser):
    """Every element with its attributes, and a check that all are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Find where the values of a JSON structure are."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list):
            yield from leaves(item, (*place, key))
        else:
            yield (*place, key)


def at(payload: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        payload = payload[key]
    return payload


def changed(payload: Any, place: tuple[Any, ...], value: Any) -> Any:
    payload = copy.deepcopy(payload)
    at(payload, place[:-1])[place[-1]] = value
    return payload


def counts(document: Document) -> Counter[str]:
    return Counter(tag for tag, _ in document.elements)


def test_the_page_is_well_formed_and_complete(sources: list[Source]):
    document = Document(page(sources))
    identities = [each["id"] for _, each in document.elements if "id" in each]
    assert len(identities) == len(set(identities))
    targets = [link["href"] for link in document.all("a")]
    assert {str(target)[1:] for target in targets} == set(identities)
    assert len(document.all("section")) == len(document.all("article")) == len(sources)
    found = counts(document)
    assert [found[name] for name in ("h1", "main", "nav", "header", "footer")] == [1] * 5
    assert all(table["scope"] in ("row", "col") for table in document.all("th"))
    assert found["table"] > 1
    assert document.all("html")[0]["lang"] == "en"


def test_headings_do_not_skip_a_level(sources: list[Source]):
    levels = [int(t[1]) for t, _ in Document(page(sources)).elements if re.fullmatch("h[1-6]", t)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_pictures_say_what_they_are_or_hide(sources: list[Source]):
    for picture in Document(page(sources)).all("svg"):
        told = picture.get("role") == "img" and picture.get("aria-label")
        assert told or picture.get("aria-hidden") == "true"


def test_nothing_is_loaded_and_nothing_runs(sources: list[Source]):
    text = page(sources)
    document = Document(text)
    (policy,) = (m["content"] for m in document.all("meta") if "http-equiv" in m)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert not {"script", "iframe", "object", "embed", "img"} & {t for t, _ in document.elements}
    for _, attributes in document.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("href", "src"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_what_is_drawn_has_places(sources: list[Source]):
    drawn = [
        str(each[name])
        for tag, each in Document(page(sources)).elements
        for name in ("d", "x", "y", "cx", "cy", "width", "height", "viewbox")
        if name in each and tag in ("path", "rect", "circle", "text", "image", "svg")
    ]
    assert len(drawn) > 100
    assert not [one for one in drawn if "nan" in one or "inf" in one]


def test_the_same_reports_make_the_same_page(sources: list[Source]):
    assert page(sources) == page(copy.deepcopy(sources))


def test_the_title_is_that_of_the_only_source_or_as_given(sources: list[Source]):
    assert "<title>Curvature report</title>" in page(sources)
    assert "<title>a &lt;b&gt;</title>" in page(sources, "a <b>")


def test_verdicts_are_told_by_words_and_signs(payloads: dict[str, Any]):
    text = page([Source("g", payloads["gate"])])
    for sign in ("✓ pass", "✗ fail", "? inconclusive"):
        assert f"{sign}</span>" in text
    assert "increase ≤ 10 %" in text


def test_a_gate_without_a_network_s_name_has_its_subject_s(payloads: dict[str, Any]):
    assert "<h1>run/model.safetensors</h1>" in page([Source("g", payloads["gate, of a report"])])


@pytest.mark.parametrize("name", NAMES)
def test_hostile_text_is_shown_and_not_obeyed(payloads: dict[str, Any], name: str):
    payload, calm = payloads[name], Document(page([Source("r", payloads[name])]))
    places = [place for place in leaves(payload) if isinstance(at(payload, place), str)]
    for place in places:
        if place == ("schema",):
            continue
        text = page([Source("r", changed(payload, place, HOSTILE))])
        text.encode()
        assert "<script" not in text
        assert not {"\x1b", "\x00", "\u202e"} & set(text)
        assert counts(Document(text)) <= counts(calm), place


WRONG = (None, "x", [], [[]], {}, -1, 0, 1e308, -1e308, 10**400, True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_wrong_value_is_drawn_or_refused(payloads: dict[str, Any], name: str, count: int):
    payload = payloads[name]
    places = [(key,) for key in payload if key != "schema"]
    places += [place for place in leaves(payload) if place != ("schema",)]
    pairs = list(itertools.product(places, WRONG))
    random.Random(0).shuffle(pairs)
    for place, value in pairs[:count]:
        with suppress(InputError):
            Document(page([Source("r.json", changed(payload, place, value))]))


@pytest.mark.parametrize("schema", ["hessdiag.spectrum/2", None, 7, ["x"], "spectrum"])
def test_an_unknown_schema_is_refused_by_name(schema: object):
    with pytest.raises(InputError, match=r"unknown schema of r\.json\n"):
        page([Source("r.json", {"schema": schema})])


def test_every_schema_has_a_sample(payloads: dict[str, Any]):
    assert {payload["schema"] for payload in payloads.values()} == set(SECTIONS)
