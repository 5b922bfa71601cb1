"""The report of a run as JSON, schema ``hessdiag.train/1``."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from hessdiag.curvature.pac_bayes import PacBayes
from hessdiag.reports import payload
from hessdiag.training import methods
from hessdiag.training.folder import Config
from hessdiag.training.history import Finished

SCHEMA = "hessdiag.train/1"


def train_payload(found: Finished) -> dict[str, Any]:
    """Lay a finished run out as JSON; every number is finite or null."""
    config = found.config
    return payload.finite(
        {
            **payload.origin(
                SCHEMA,
                found.provenance,
                num_parameters=found.num_parameters,
                num_samples=found.num_samples,
            ),
            "regulariser": regulariser(config),
            "recipe": recipe(config),
            "settings": {
                field.name: getattr(config, field.name)
                for field in dataclasses.fields(config)
                if field.name != "recipe"
            },
            "epochs": [epoch.to_row() for epoch in found.epochs],
            "best_epoch": found.best.number if found.best else None,
            "pac_bayes": _bound(found.pac_bayes),
            "cost": {
                "seconds": found.seconds,
                "images_per_second": found.images_per_second,
                "peak_memory_bytes": found.peak_memory_bytes,
                "num_processes": found.num_processes,
                "device": found.device,
            },
        }
    )


def regulariser(config: Config) -> dict[str, Any]:
    """Name the method, with its options and what stands for those of other methods."""
    return {"name": config.method.name, "strengths": methods.strengths(config.method)}


def recipe(config: Config) -> dict[str, Any]:
    """List the recipe's fields; the method's options stand beside it alone."""
    fields = dataclasses.asdict(config.recipe)
    del fields["method"]
    return {**fields, "regulariser": config.method.name, "strengths": []}


def _bound(bound: PacBayes | None) -> dict[str, Any] | None:
    if bound is None:
        return None
    complexity = bound.complexity
    least = {"value": bound.value, "at_least": bound.at_least, "complexity": complexity}
    return {**least, **msgspec.to_builtins(bound)}
