"""The page: whole, closed to the network, and with nothing of a file's own markup."""

import dataclasses
import itertools
import json
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from hessdiag import codec, results
from hessdiag.errors import InputError
from hessdiag.show.document import (
    Axis,
    Bars,
    Block,
    Chart,
    Code,
    Curve,
    Document,
    Interval,
    Marks,
    Named,
    Quantity,
    Row,
    Table,
    Verdict,
)
from hessdiag.show.page import page
from hessdiag.show.wording import text_of
from tests.results import RESULTS
from tests.show.elements import Elements

HOSTILE = "<script>alert(1)</script>\"'&quot; onload=x \x1b[31m\x00 \u202eesrever {{7*7}}"
WRONG = (None, "x", [], [[]], {}, -1, 0, 1e308, -1e308, 10**400, True)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return [result().document() for result in RESULTS.values()]


@pytest.fixture(scope="module")
def whole(documents: list[Document]) -> str:
    return page(documents)


def words(document: Document) -> str:
    return " ".join(" ".join(Elements(page([document])).words).split())


@pytest.mark.parametrize("name", RESULTS)
def test_all_of_a_document_is_there(name: str):
    document = RESULTS[name]().document()
    shown = words(document)
    told = [document.title, document.kind, *document.notes]
    told += [text for label, cell in document.facts for text in (label, text_of(cell))]
    told += [text for label, cell in document.origin for text in (label, text_of(cell))]
    for block in document.on("page"):
        told.append(block.heading)
        for item in block.items:
            if isinstance(item, Table):
                cells = [*item.header, *(cell for row in item.rows for cell in row.cells)]
                pictures = (Bars, Verdict, Interval)
                told += [text_of(cell) for cell in cells if not isinstance(cell, pictures)]
                told.append(item.caption)
            elif isinstance(item, Chart):
                told += [item.title, item.x.label, item.y.label]
                told += [curve.label for curve in item.curves if len(item.curves) > 1]
    for text in told:
        plain = text.replace("-", "−").removesuffix(" ?")
        assert " ".join(text.split()) in shown or " ".join(plain.split()) in shown


def test_the_page_is_well_formed(documents: list[Document], whole: str):
    elements = Elements(whole)
    identities = [each["id"] for _, each in elements.found if "id" in each]
    assert len(identities) == len(set(identities))
    targets = [link["href"] for link in elements.all("a")]
    assert {str(target)[1:] for target in targets} == set(identities)
    assert len(elements.all("section")) == len(elements.all("article")) == len(documents)
    counts = elements.counts()
    assert [counts[name] for name in ("h1", "main", "nav", "header", "footer")] == [1] * 5
    assert all(heading["scope"] in ("row", "col") for heading in elements.all("th"))
    assert counts["table"] > 10
    assert all(each.get("aria-label") for each in elements.all("div") if "tabindex" in each)
    assert elements.all("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in elements.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for picture in elements.all("svg"):
        told = picture.get("role") == "img" and picture.get("aria-label")
        assert told or picture.get("aria-hidden") == "true"


def test_nothing_is_loaded_and_nothing_runs(whole: str):
    elements = Elements(whole)
    (policy,) = (m["content"] for m in elements.all("meta") if "http-equiv" in m)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert not {"script", "iframe", "object", "embed", "img"} & elements.counts().keys()
    for _, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("href", "src"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    for text in ("://", "url(", "@import"):
        assert text not in whole


def test_what_is_drawn_has_places(whole: str):
    drawn = [
        str(each[name])
        for tag, each in Elements(whole).found
        for name in ("d", "x", "y", "cx", "cy", "width", "height", "viewbox")
        if name in each and tag in ("path", "rect", "circle", "text", "image", "svg")
    ]
    assert len(drawn) > 500
    assert not [one for one in drawn if "nan" in one or "inf" in one]


def test_the_title_is_that_of_the_only_report_or_as_given(documents: list[Document], whole: str):
    assert f"<h1>{documents[0].title}</h1>" in page(documents[:1])
    assert "<title>Curvature report</title>" in whole
    assert "<title>a &lt;b&gt;</title>" in page(documents, "a <b>")


def test_verdicts_are_told_by_words_and_signs():
    rows = [Row([Verdict(name)]) for name in ("pass", "fail", "inconclusive")]
    document = Document("k", "t", [], [Block("b", [Table(["v"], rows)])], verdict="fail")
    text = page([document])
    for sign in ("✓ pass", "✗ fail", "? inconclusive"):
        assert f"{sign}</span>" in text
    assert text.count("✗ fail</span>") == 2


def test_what_is_not_sure_is_said():
    cells = [Quantity(1.0, 0.1), Quantity(1.0, 0.1, sure=False)]
    table = Table(["a", "b", "c"], [Row(["", *cells])])
    assert page([Document("k", "t", [], [Block("b", [table])])]).count("not converged</small>") == 1


def test_hostile_text_is_shown_and_not_obeyed():
    axis, text = Axis(HOSTILE), HOSTILE
    curves = [Curve(text, [0, 1], [0, 1]), Curve(text, [0, 1], [1, 0])]
    cells = [Code(text), text, Verdict(text), Named(text, "gn"), Bars([("gn", 1.0)], 0, 1)]
    table = Table([text] * 5, [Row(cells)], text)
    folded = dataclasses.replace(table, folded=True)
    chart = Chart(text, axis, axis, curves, [Marks(text, "gn", [(0.5, True)])])
    block = Block(text, [table, chart, folded])
    pairs = [(text, Code(text)), (text, text)]
    document = Document(text, text, pairs, [block], [text], [text], [text], pairs, text)
    shown = page([document, document], text)
    calm = page([tamed(document), tamed(document)])
    assert Elements(shown).counts() == Elements(calm).counts()
    assert not {"\x1b", "\x00", "\u202e"} & set(shown)
    assert shown.count("&lt;script&gt;") > 40


def tamed(value: Any) -> Any:
    """Copy a document with tame text."""
    if isinstance(value, str):
        return "tame" if value == HOSTILE else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: tamed(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return type(value)(**fields)
    if isinstance(value, (list, tuple)):
        return type(value)(tamed(item) for item in value)
    return value


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Find where the values of a JSON structure are."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list):
            yield from leaves(item, (*place, key))
        else:
            yield (*place, key)


def changed(payload: Any, place: tuple[Any, ...], value: Any) -> Any:
    """Copy along the way to ``place`` alone."""
    if not place:
        return value
    copy = dict(payload) if isinstance(payload, dict) else list(payload)
    copy[place[0]] = changed(payload[place[0]], place[1:], value)
    return copy


@pytest.mark.parametrize("name", RESULTS)
def test_hostile_text_of_a_report_is_shown_and_not_obeyed(name: str, whole: str):
    payload = json.loads(RESULTS[name]().to_json())
    kind = results.kind_of(payload["schema"])
    known = Elements(whole).counts().keys()
    for place in leaves(payload):
        value = payload
        for key in place:
            value = value[key]
        if not isinstance(value, str) or place == ("schema",):
            continue
        with suppress(InputError):
            text = page(
                [codec.decode(kind, json.dumps(changed(payload, place, HOSTILE))).document()]
            )
            assert "<script" not in text
            assert not {"\x1b", "\x00", "\u202e"} & set(text)
            assert Elements(text).counts().keys() <= known, place


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_wrong_value_is_drawn_or_refused(name: str, count: int):
    payload = json.loads(RESULTS[name]().to_json())
    kind = results.kind_of(payload["schema"])
    places = [(key,) for key in payload if key != "schema"]
    places += [place for place in leaves(payload) if place != ("schema",)]
    pairs = list(itertools.product(places, WRONG))
    random.Random(0).shuffle(pairs)
    for place, value in pairs[:count]:
        with suppress(InputError):
            Elements(
                page([codec.decode(kind, json.dumps(changed(payload, place, value))).document()])
            )
