"""The style sheet: readable in light and dark, and on nobody else's server."""

import re
from importlib import resources

import pytest

STYLE = resources.files("hessdiag.show").joinpath("style.css").read_text("utf-8")
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]+);", block))
    for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[:2]
)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_colour_stands_out_from_its_ground(theme: dict[str, str]):
    for name in theme.keys() - {"paper", "card", "line"}:
        for ground in ("paper", "card"):
            low, high = sorted(luminance(theme[each]) for each in (name, ground))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ground)


def test_both_themes_know_the_same_colours():
    assert LIGHT.keys() == DARK.keys()


def test_every_variable_is_defined():
    assert set(re.findall(r"var\(--([\w-]+)\)", STYLE)) <= LIGHT.keys()
