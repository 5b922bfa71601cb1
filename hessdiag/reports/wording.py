"""What all reports for the terminal share: numbers with their errors, headlines, bars."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

from hessdiag.metadata import Provenance
from hessdiag.nets import activations

BARS = " ▁▂▃▄▅▆▇█"
"""Eighths of a cell, for drawing."""


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
    if largest < 1e-300:
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


def title(provenance: Provenance) -> str:
    """Name the network, its activation and its data in one line."""
    model = provenance.model
    activation = f" {activations.label(model.activation, model.beta)}" if model.activation else ""
    text = f"{model.name}{activation} on {provenance.data} ({provenance.split})"
    return text + trained_with(provenance)


def trained_with(provenance: Provenance) -> str:
    """Say which activation the weights were trained with, if it was another."""
    before = provenance.trained_with
    if before is None or before.activation is None:
        return ""
    return f", what if: trained with {activations.label(before.activation, before.beta)}"


def _rounded_up(error: Decimal) -> str:
    """Two figures, one of what is below a thousandth."""
    if error < Decimal("1e-3"):
        up = Context(1, ROUND_CEILING).plus(error)
        return f"{float(up):.0e}"
    places = max(1 - error.adjusted(), 0)
    return f"{error.quantize(Decimal(1).scaleb(-places), ROUND_CEILING)}"
