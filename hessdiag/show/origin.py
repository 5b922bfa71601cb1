"""Where a report's numbers come from: checkpoint, data, settings, checks, cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from hessdiag import codec
from hessdiag.show.document import Cell, Code, Count, Quantity
from hessdiag.show.wording import text_of

_LABELS = {"num_parameters": "parameters", "num_samples": "samples"}


def origin(result: Any, sides: Mapping[str, Any] | None = None) -> list[tuple[str, Cell]]:
    """List what a result, and each of its sides, tell of their origin; None is left out."""
    facts: list[tuple[str, Cell]] = [
        ("schema", f"{result.schema}, hessdiag {result.version}"),
    ]
    for side, own in (sides or {}).items():
        facts += [(f"{side}, {name}", cell) for name, cell in _own(own)]
    return [*facts, *_own(result)]


def _own(result: Any) -> Iterator[tuple[str, Cell]]:
    for kind in ("checkpoint", "data", "recipe", "settings", "checks", "cost"):
        fields = msgspec.to_builtins(getattr(result, kind, None) or {}, enc_hook=codec.to_lists)
        for name, value in fields.items():
            if value is not None:
                label = _LABELS.get(name, name.replace("_", " "))
                hashed = kind in ("checkpoint", "data") and name in ("sha256", "path")
                yield f"{kind}: {label}", Code(value) if hashed else _cell(value)


def _cell(value: Any) -> Cell:
    """Write a setting of whatever kind."""
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return Count(value)
        case float():
            return Quantity(value)
        case dict():
            return ", ".join(f"{key} {text_of(_cell(item))}" for key, item in value.items())
        case list() | tuple():
            return ", ".join(text_of(_cell(item)) for item in value)
        case _:
            return str(value)
