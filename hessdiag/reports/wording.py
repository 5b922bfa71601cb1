"""What all reports for the terminal share: numbers with their errors, headlines, bars."""

from __future__ import annotations

import math

from hessdiag.metadata import Provenance
from hessdiag.nets import activations

BARS = " ▁▂▃▄▅▆▇█"
"""Eighths of a cell, for drawing."""


def plus_minus(value: float, error: float | None) -> str:
    """Format value ± error with as many digits as the error warrants."""
    if not math.isfinite(value):
        return "not finite"
    if error is None or not math.isfinite(error):
        return f"{value:.4g}"
    error = max(error, 1e-7 * abs(value))
    if max(abs(value), error) < 1e-300:
        return "0"
    largest = max(abs(value), error)
    if 1e-3 <= largest < 1e5:
        digits = min(max(1 - math.floor(math.log10(error)), 0), 6)
        digits = min(digits, max(5 - math.floor(math.log10(largest)), 0))  # six figures in all
        return f"{value:.{digits}f} ± {_short(error)}"
    power = math.floor(math.log10(largest))
    scale = 10.0**power
    digits = min(max(1 - math.floor(math.log10(error / scale)), 0), 5)
    return f"({value / scale:.{digits}f} ± {_short(error / scale)})e{power}"


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


def _short(error: float) -> str:
    if error < 1e-3:
        return f"{error:.0e}"
    digits = max(1 - math.floor(math.log10(error)), 0)
    return f"{error:.{digits}f}"
