"""The landscape report as JSON: a plain dictionary of fixed shape, without NaN or Infinity."""

from __future__ import annotations

import dataclasses
from typing import Any

from hessdiag.landscapes.surfaces import Landscape, Point, SampledNorm, Surface, has_kinks
from hessdiag.metadata import Provenance
from hessdiag.reports.landscape import NORMS
from hessdiag.reports.payload import finite, origin

LANDSCAPE = "hessdiag.landscape/1"


def landscape_json(found: Landscape, provenance: Provenance | None = None) -> dict[str, Any]:
    """Lay a landscape out as ``hessdiag.landscape/1``; numbers that are not finite are None.

    Entry ``[i][j]`` of every table belongs to θ + ``a[i]`` u + ``b[j]`` v. ``notes`` gives the
    reason for every None and whatever else qualifies a number.
    """
    return finite(
        {
            **origin(
                LANDSCAPE,
                provenance,
                num_parameters=found.num_parameters,
                num_samples=found.num_samples,
            ),
            "loss": {"name": found.loss_name},
            "settings": {
                "resolution": found.resolution,
                "radius": found.radius,
                "num_probes": found.num_probes,
                "seed": found.seed,
                "dtype": found.dtype,
                "device": found.device,
                "bn": found.bn,
                "batch_size": provenance.batch_size if provenance else None,
                "params": found.params,
            },
            "plane": {
                "kind": found.plane,
                "labels": found.labels,
                "eigenvalues": [dataclasses.asdict(ritz) for ritz in found.eigenvalues],
            },
            "axes": {"a": found.a.tolist(), "b": found.b.tolist()},
            "surfaces": [_surface(surface) for surface in found.surfaces],
            "cost": {
                "seconds": found.seconds,
                "num_points": found.num_points,
                "peak_memory_bytes": found.peak_memory_bytes,
            },
            "notes": notes(found),
        }
    )


def notes(found: Landscape) -> list[str]:
    """List what qualifies the numbers of a landscape."""
    listed = list(found.notes)
    for surface in found.surfaces:
        name = f"{surface.activation}: " if surface.activation else ""
        for field, label in NORMS.items():
            if not getattr(surface, field).any():
                kinked = field == "nme_norm" and has_kinks(surface)
                why = ", and no point lies on a kink" if kinked else ""
                listed.append(f"{name}the {label} is exactly 0 at every point{why}")
    return listed


def _surface(surface: Surface) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "activation": surface.activation,
        "beta": surface.beta,
        "origin": _point(surface.origin),
        "loss": surface.loss.tolist(),
        "gn_norm": surface.gn_norm.tolist(),
        "nme_norm": surface.nme_norm.tolist(),
    }
    for name in ("gn_full", "nme_full"):
        sampled: SampledNorm | None = getattr(surface, name)
        if sampled is not None:
            payload[name] = {"value": sampled.value.tolist(), "stderr": sampled.stderr.tolist()}
    return payload


def _point(point: Point) -> dict[str, Any]:
    fields = dataclasses.asdict(point)
    return {name: value for name, value in fields.items() if value is not None}
