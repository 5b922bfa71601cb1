"""Numbers with their errors, and cells, as text; and text as nothing but that."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

from hessdiag.errors import printable
from hessdiag.show.document import (
    Bars,
    Cell,
    Code,
    Count,
    Interval,
    Named,
    Quantity,
    Share,
    Verdict,
)

BARS = " ▁▂▃▄▅▆▇█"
"""Eighths of a cell, for drawing."""
NONE = "–"
"""Stands for a number that is not known."""


def calm(text: str) -> str:
    """Take away what CI would obey: commands at a line's start, or, of one kind, anywhere."""
    return text.replace("::", ": :").replace("##[", "# #[")


def one_line(text: str) -> str:
    """Make control characters visible, line breaks too."""
    return printable(text).replace("\n", "\\n")


def text_of(cell: Cell) -> str:
    """Write a cell as plain text, still to be escaped for where it goes."""
    match cell:
        case str():
            return cell
        case Code(text) | Named(text, _) | Verdict(text):
            return text
        case Count(value):
            return NONE if value is None else f"{value:,}"
        case Share(value, error):
            return NONE if value is None else f"{percent(value, error)} %"
        case Quantity(value, error, sure):
            return NONE if value is None else plus_minus(value, error) + ("" if sure else " ?")
        case Interval(ends):
            return "none" if ends is None else f"[{', '.join(between(*ends))}]"
        case Bars(values, low, high):
            return _bar(next((value for _, value in reversed(values)), None), low, high)


def percent(share: float, error: float | None = None) -> str:
    """Format 100 times a number ± error, without rounding anything to all of it."""
    if error is None and 0.99995 <= share < 1:
        return "99.99"
    return plus_minus(100 * share, None if error is None else 100 * error)


def plus_minus(value: float, error: float | None) -> str:
    """Format value ± error with as many digits as the error warrants, six at most.

    The error is rounded up and takes in what rounding the value moved: the printed interval holds
    ``value ± error``.
    """
    if not math.isfinite(value):
        return "not finite"
    if error is None or not math.isfinite(error):
        return f"{value:.4g}"
    error = max(error, 1e-7 * abs(value))
    largest = max(abs(value), error)
    if not largest:
        return "0"
    power = 0 if 1e-3 <= largest < 1e5 else math.floor(math.log10(largest))
    exact, bound = (Decimal(repr(float(number))).scaleb(-power) for number in (value, error))
    digits = min(1 - bound.adjusted(), 5 - max(exact, bound, key=abs).adjusted(), 6)
    shown = exact.quantize(Decimal(1).scaleb(-max(digits, 0)), ROUND_HALF_EVEN)
    text = f"{shown} ± {_rounded_up(bound + abs(shown - exact))}"
    return f"({text})e{power}" if power else text


def between(low: float, high: float) -> tuple[str, str]:
    """Format the ends of an interval with four figures each, rounded outwards."""
    below = Context(4, ROUND_FLOOR).create_decimal(repr(float(low)))
    above = Context(4, ROUND_CEILING).create_decimal(repr(float(high)))
    return f"{float(below):.4g}", f"{float(above):.4g}"


def ordinal(number: int) -> str:
    """Spell 1st, 2nd, 3rd, 4th and so on."""
    tens = number // 10 % 10
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') if tens != 1 else 'th' }"


def _rounded_up(error: Decimal) -> str:
    """Two figures, one of what is below a thousandth."""
    if error < Decimal("1e-3"):
        up = Context(1, ROUND_CEILING).plus(error)
        return f"{float(up):.0e}"
    places = max(1 - error.adjusted(), 0)
    return f"{error.quantize(Decimal(1).scaleb(-places), ROUND_CEILING)}"


def _bar(value: float | None, low: float, high: float, width: int = 12) -> str:
    """Draw one bar; a negative one is light."""
    size = max(abs(low), abs(high))
    if value is None or not size or not math.isfinite(value):
        return ""
    eighths = round(8 * width * min(abs(value) / size, 1.0))
    full, rest = divmod(eighths, 8)
    return "░" * full if value < 0 else BARS[8] * full + (BARS[rest] if rest else "")
