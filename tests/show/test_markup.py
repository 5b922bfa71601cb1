"""Elements, and numbers as they are written."""

import pytest

from hessdiag.show import markup
from hessdiag.show.markup import Markup, tag


def test_text_is_escaped_and_markup_is_not():
    assert tag("p", "<b>", tag("i", "&"), Markup("<hr>")) == "<p>&lt;b&gt;<i>&amp;</i><hr></p>"


def test_attributes_are_escaped_named_and_left_out():
    found = tag("a", class_="x", stroke_width=2, title='"<', href=None, x=1 / 3)
    assert found == '<a class="x" stroke-width="2" title="&quot;&lt;" x="0.3333"></a>'


def test_control_characters_are_shown():
    assert markup.text("a\x1b\u202e\ud800b") == "a\\x1b\\x202e\\xd800b"


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (markup.number(None), "–"),
        (markup.number(-1.5, 0.25), "−1.50 ± 0.25"),
        (markup.percent(-0.125), "−12.5 %"),
        (markup.percent(None), "–"),
        (markup.count(12345), "12,345"),
        (markup.count(None), "–"),
        (markup.estimate(None), "–"),
        (markup.estimate({"value": 2.0, "stderr": None, "ci95": None}), "2"),
        (
            markup.estimate({"value": 2.0, "stderr": 0.5, "ci95": [1.0, 3.0]}),
            "2.00 ± 0.50<small>1 to 3</small>",
        ),
    ],
)
def test_numbers(found: str, wanted: str):
    assert found == wanted


def test_columns_of_numbers_are_told_from_words_and_pictures():
    found = markup.table("c", ["a", "b", "p"], [["x", "1", tag("svg")]])
    assert found.count('class="number"') == 2
    assert '<th scope="row">x</th><td class="number">1</td><td><svg></svg></td>' in found
