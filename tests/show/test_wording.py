"""Numbers with their errors, and cells, as text."""

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from hessdiag.show.document import Bars, Cell, Code, Count, Interval, Quantity, Share, Verdict
from hessdiag.show.wording import between, ordinal, plus_minus, text_of


@pytest.mark.parametrize(
    ("value", "error", "wanted"),
    [
        (1.23456, 0.012, "1.235 ± 0.013"),
        (-1.23456, 0.12, "-1.23 ± 0.13"),
        (1234.5, 12.0, "1234 ± 13"),
        (0.0, 0.5, "0.00 ± 0.50"),
        (0.0, 0.0, "0"),
        (-0.0, 0.0, "0"),
        (2.5, None, "2.5"),
        (1.0, 0.0, "1.00000 ± 1e-07"),
        (1e-8, 2e-9, "(1.00 ± 0.20)e-8"),
        (3.2e12, 1e10, "(3.200 ± 0.010)e12"),
        (1e-300, 1e-301, "(1.00 ± 0.10)e-300"),
        (-3e-310, 1e-312, "(-3.000 ± 0.010)e-310"),
        (-4e200, 1e199, "(-4.000 ± 0.025)e200"),
        (math.nan, 1.0, "not finite"),
        (math.inf, 1.0, "not finite"),
        (math.nan, None, "not finite"),
    ],
)
def test_plus_minus(value: float, error: float | None, wanted: str):
    if wanted == "(-4.000 ± 0.025)e200":
        error = 2.5e198
    assert plus_minus(value, error) == wanted


@pytest.mark.parametrize("seed", range(3))
def test_what_is_printed_holds_what_it_rounds(seed: int):
    rng = np.random.default_rng(seed)
    for value, error in zip(
        rng.standard_normal(500) * 10.0 ** rng.uniform(-12, 12, 500),
        10.0 ** rng.uniform(-14, 12, 500),
        strict=True,
    ):
        mantissa, _, power = plus_minus(value, error).strip("(").partition(")e")
        shown, bound = (Decimal(part).scaleb(int(power or 0)) for part in mantissa.split(" ± "))
        assert abs(shown - Decimal(value)) + Decimal(error) * Decimal("0.999999") <= bound
        low, high = map(float, between(value, value + error))
        assert low <= value
        assert value + error <= high


@pytest.mark.parametrize(
    "error", [None, 0.0, 5e-324, 1e-300, 1e-9, 0.0999, 1.0, 1e5, 1e308, math.inf, math.nan]
)
def test_plus_minus_never_fails(error: Any):
    for value in (0.0, 1.0, -3e-7, 1e-300, 5e-324, 1e308, 99999.9999, -1e5):
        assert plus_minus(value, error)


def test_the_one_and_twentieth_is_no_th():
    numbers = (1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 101, 111)
    ordinals = "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 23rd 101st 111th"
    assert " ".join(map(ordinal, numbers)) == ordinals


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("words", "words"),
        (Code("fc.weight"), "fc.weight"),
        (Count(12345), "12,345"),
        (Count(None), "–"),
        (Share(0.984375), "98.44 %"),
        (Share(0.5, 0.01), "50.0 ± 1.0 %"),
        (Share(None), "–"),
        (Quantity(2.0, 0.5), "2.00 ± 0.50"),
        (Quantity(2.0, None), "2"),
        (Quantity(None), "–"),
        (Interval((-1.0, 2.0)), "[-1, 2]"),
        (Interval(None), "none"),
        (Verdict("pass"), "pass"),
        (Bars([("gn", 1.0)], 0.0, 1.0), "█" * 12),
        (Bars([("gn", 0.5)], 0.0, 1.0), "█" * 6),
        (Bars([("gn", -0.5)], -1.0, 1.0), "░" * 6),
        (Bars([("gn", None)], 0.0, 1.0), ""),
        (Bars([("gn", 0.0)], 0.0, 0.0), ""),
    ],
)
def test_cells_as_text(cell: Cell, text: str):
    assert text_of(cell) == text
