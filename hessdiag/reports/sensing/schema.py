"""The matrix-sensing report as JSON: a plain dictionary of fixed shape, without NaN or Infinity."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from hessdiag.reports.payload import finite, origin
from hessdiag.reports.sensing import TITLES
from hessdiag.training.sensing import Sensing

SENSING = "hessdiag.sensing/1"


def sensing_json(found: Sensing) -> dict[str, Any]:
    """Lay the three descents out as ``hessdiag.sensing/1``; numbers not finite are None."""
    settings = found.settings
    return finite(
        {
            **origin(
                SENSING,
                None,
                num_parameters=settings.dimension**2,
                num_samples=settings.num_measurements,
            ),
            "settings": {**dataclasses.asdict(settings), "device": found.device},
            "steps": found.steps.tolist(),
            "methods": [
                {
                    "name": method,
                    "loss": curves.loss.tolist(),
                    "relative_error": curves.relative_error.tolist(),
                    "trace": curves.trace.tolist(),
                }
                for method, curves in found.curves.items()
            ],
            "cost": {"seconds": found.seconds},
            "notes": notes(found),
        }
    )


def notes(found: Sensing) -> list[str]:
    """Name the descents that diverged."""
    listed: list[str] = []
    for method, curves in found.curves.items():
        broken = ~np.isfinite([curves.loss, curves.relative_error, curves.trace]).all(0)
        if broken.any():
            step = found.steps[broken.argmax()]
            listed.append(f"{TITLES[method]} has diverged by step {step:,}: null")
    return listed
