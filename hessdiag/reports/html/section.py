"""What the sections of all kinds share: their shape, what they speak of, where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hessdiag.metadata import ModelSpec, Provenance
from hessdiag.reports.html.sources import Source
from hessdiag.reports.wording import title
from hessdiag.show.markup import Markup, count, join, number, tag


@dataclass(frozen=True)
class Section:
    """A report laid out.

    Attributes:
        kind: of report, in a word or two.
        title: what it speaks of.
        facts: the few numbers of its card, each with its name.
        blocks: its parts in order.
        verdict: "pass", "fail" or "inconclusive", of a gate.
    """

    kind: str
    title: str
    facts: Sequence[tuple[str, object]]
    blocks: Sequence[Markup]
    verdict: str | None = None


def subject(payload: dict[str, Any]) -> str:
    """Name the network, its activation and its data, as the terminal does."""
    data = payload["data"]
    model, before = payload["model"], payload["model"].get("trained_with")
    if model["name"] is None:  # from the library, of a network of the user's
        return f"network of {count(payload['checkpoint']['num_parameters'])} parameters"
    return title(
        Provenance(
            checkpoint=None,
            checkpoint_sha256=None,
            model=_model(model),
            data=data["spec"],
            split=data["split"],
            data_sha256="",
            batch_size=0,
            trained_with=_model({"name": "", **before}) if before else None,
        )
    )


def _model(fields: dict[str, Any]) -> ModelSpec:
    return ModelSpec(fields["name"], fields["activation"], fields["beta"])


def badge(verdict: str) -> Markup:
    """Mark a verdict by word and sign, and by colour besides."""
    sign = {"pass": "✓", "fail": "✗"}.get(verdict, "?")
    known = verdict if verdict in ("pass", "fail") else "unsure"
    return tag("span", f"{sign} {verdict}", class_=f"verdict {known}")


def definitions(facts: Sequence[tuple[str, object]]) -> Markup:
    """Lay out names with their values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts))


def notes(payload: dict[str, Any]) -> Markup:
    """List what qualifies the numbers of a report."""
    found: list[str] = payload.get("notes", [])
    if not found:
        return Markup("")
    return tag("ul", *(tag("li", note) for note in found), class_="notes")


def origin(source: Source) -> Markup:
    """Tell where a report comes from: checkpoint, data, settings, cost."""
    facts = [("source", tag("code", source.path)), *_origin(source.payload)]
    return tag("details", tag("summary", "Provenance and settings"), definitions(facts))


def _origin(payload: dict[str, Any]) -> Iterator[tuple[str, object]]:
    yield "schema", f"{payload['schema']}, hessdiag {payload.get('version')}"
    for side in ("a", "b"):  # of a comparison
        for name, value in _own(payload.get(side) or {}):
            yield f"{side.upper()}, {name}", value
    yield from _own(payload)


def _own(payload: dict[str, Any]) -> Iterator[tuple[str, object]]:
    for kind in ("checkpoint", "data"):
        for name, value in (payload.get(kind) or {}).items():
            if value is not None:
                label = {"num_parameters": "parameters", "num_samples": "samples"}.get(name, name)
                hashed = name in ("sha256", "path")
                yield f"{kind}: {label}", tag("code", value) if hashed else _plain(value)
    for kind in ("recipe", "settings", "checks", "cost"):
        for name, value in (payload.get(kind) or {}).items():
            if value is not None:
                yield f"{kind}: {name.replace('_', ' ')}", _plain(value)


def _plain(value: Any) -> Markup:
    """Write a setting of whatever kind."""
    if isinstance(value, bool):
        return join(("yes" if value else "no",))
    if isinstance(value, int):
        return join((count(value),))
    if isinstance(value, float):
        return join((number(value),))
    if isinstance(value, dict):
        return join((", ".join(f"{key} {_plain(item)}" for key, item in value.items()),))
    if isinstance(value, list):
        return join((", ".join(map(str, value)),))
    return join((value,))
