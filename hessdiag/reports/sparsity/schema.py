"""Sparsity reports as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from hessdiag.metadata import Provenance
from hessdiag.reports.payload import finite, origin
from hessdiag.sparsities.preactivations import CallSparsity
from hessdiag.sparsities.sparsity_run import Sparsity
from hessdiag.sparsities.studies import Study

SPARSITY = "hessdiag.sparsity/1"


def sparsity_json(
    studies: Sequence[Study], provenance: Provenance, *, seed: int, num_probes: int
) -> dict[str, Any]:
    """Lay studies out as ``hessdiag.sparsity/1``; numbers that are not finite are None.

    ``notes`` gives the reason for every None and whatever else qualifies a number.
    """
    networks = [found for study in studies for found in (study.trained, study.initial) if found]
    first = networks[0]
    return finite(
        {
            **origin(
                SPARSITY,
                provenance,
                num_parameters=first.num_parameters,
                num_samples=first.num_samples,
            ),
            "loss": {"name": first.loss_name},
            "settings": {
                "threshold": first.threshold,
                "seed": seed,
                "dtype": first.dtype,
                "device": first.device,
                "bn": first.bn,
                "batch_size": provenance.batch_size,
                "num_probes": num_probes,
            },
            "activations": [_study(study) for study in studies],
            "cost": {"seconds": sum(network.seconds for network in networks)},
            "notes": notes(studies) + _unbounded(studies),
        }
    )


def notes(studies: Sequence[Study]) -> list[str]:
    """List what qualifies the numbers of a report, each remark once."""
    found: list[str] = []
    numerical: dict[str, int] = {}
    for study in studies:
        found += study.notes
        for network in (study.initial, study.trained):
            if network is not None:
                found += network.notes
        network = study.trained or study.initial
        for call in network.calls if network else ():
            if not call.closed_form:
                numerical[call.function] = numerical.get(call.function, 0) + 1
    for function, count in numerical.items():
        calls = f"{count} calls" if count > 1 else "1 call"
        found.append(
            f"φ'' of {function} ({calls}) is not known in closed form, so it is differentiated "
            "numerically, in float64"
        )
    return list(dict.fromkeys(found))


def _unbounded(studies: Sequence[Study]) -> list[str]:
    return [
        f"{study.title}: φ'' is not zero however far out, so null ends an interval"
        for study in studies
        if study.profile
        and not all(
            math.isfinite(end)
            for interval in (*study.profile.nonzero, *study.profile.above)
            for end in (interval.low, interval.high)
        )
    ]


def _study(study: Study) -> dict[str, Any]:
    return {
        "activation": study.activation,
        "beta": study.beta,
        "profile": dataclasses.asdict(study.profile) if study.profile else None,
        "initial": _network(study.initial),
        "trained": _network(study.trained),
    }


def _network(found: Sparsity | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "total": dataclasses.asdict(found.total),
        "calls": [_call(call) for call in found.calls],
        "block_norms": dict(found.block_norms) if found.block_norms is not None else None,
    }


def _call(call: CallSparsity) -> dict[str, Any]:
    fields = dataclasses.asdict(call)
    shares = fields.pop("shares")
    return {**fields, **shares}
