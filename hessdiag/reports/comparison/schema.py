"""Comparisons as JSON: plain dictionaries of fixed shape, without NaN or Infinity."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from hessdiag import __version__, codec
from hessdiag.comparisons.changes import Change
from hessdiag.comparisons.comparison_run import Comparison, PartChange
from hessdiag.metadata import Provenance
from hessdiag.reports.payload import finite, origin
from hessdiag.spectra.spectrum_result import Report

COMPARE = "hessdiag.compare/1"
Provenances = tuple[Provenance | None, Provenance | None]
"""Of A and of B."""


def comparison_json(found: Comparison, provenances: Provenances = (None, None)) -> dict[str, Any]:
    """Lay a comparison out as ``hessdiag.compare/1``; what is not known is None, and noted."""
    a, b = found.a, found.b
    return finite(
        {
            "schema": COMPARE,
            "version": __version__,
            "a": _side(a, provenances[0]),
            "b": _side(b, provenances[1]),
            "paired": found.paired,
            "loss": {"name": a.loss_name, **_exact(a.loss, b.loss)},
            "accuracy": _exact(a.accuracy, b.accuracy),
            "parts": {
                name: {**_part(part), "density": _densities(found, name)}
                for name, part in found.parts.items()
            },
            "notes": notes(found),
        }
    )


def notes(found: Comparison) -> list[str]:
    """List what qualifies the numbers of a comparison."""
    listed = list(found.notes)
    for name, part in found.parts.items():
        for end in ("top", "bottom"):
            changes: tuple[Change, ...] = getattr(part, end)
            if unknown := sum(change.interval is None for change in changes):
                listed.append(
                    f"{name}: {unknown} of {len(changes)} {end} eigenvalues not converged in A or "
                    "in B: no interval, null"
                )
        if found.paired and part.top and part.overlap is None:
            listed.append(
                f"{name}: fewer than {len(part.top)} eigenvalues can be told from zero, so that "
                "the rest of their eigenspace is arbitrary: overlap is null"
            )
    if 1 in (found.a.settings.num_probes, found.b.settings.num_probes):
        listed.append("one probe gives no standard error and no interval: null")
    if found.a.accuracy is None or found.b.accuracy is None:
        listed.append("the targets are not classes, so there is no accuracy: null")
    return listed


def _side(report: Report, provenance: Provenance | None) -> dict[str, Any]:
    own = origin(
        COMPARE,
        provenance,
        num_parameters=report.num_parameters,
        num_samples=report.num_samples,
    )
    return {
        **{key: own[key] for key in ("checkpoint", "model", "data")},
        "settings": {
            **dataclasses.asdict(report.settings),
            "batch_size": provenance.batch_size if provenance else None,
        },
        "cost": report.cost,
    }


def _exact(a: float | None, b: float | None) -> dict[str, Any]:
    return {"a": a, "b": b, "difference": None if a is None or b is None else b - a}


def _part(part: PartChange) -> dict[str, Any]:
    return {
        "trace": _change(part.trace),
        "frobenius_norm": _change(part.frobenius_norm),
        "top": [_change(change) for change in part.top],
        "bottom": [_change(change) for change in part.bottom],
        "overlap": part.overlap and dataclasses.asdict(part.overlap),
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "a": msgspec.to_builtins(change.a),
        "b": msgspec.to_builtins(change.b),
        "difference": {
            "value": change.value,
            "error": change.error,
            "interval": change.interval,
        },
        "relative_change": change.relative,
        "significant": change.significant,
    }


def _densities(found: Comparison, name: str) -> dict[str, Any] | None:
    a, b = (of.parts[name].density for of in (found.a, found.b))
    return (
        None
        if a is None or b is None
        else {
            side: msgspec.to_builtins(density, enc_hook=codec.to_lists)
            for side, density in (("a", a), ("b", b))
        }
    )
