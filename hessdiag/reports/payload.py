"""What all JSON reports share: the fields on their origin, finite numbers, serialising."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from hessdiag import __version__
from hessdiag.metadata import ModelSpec, Provenance

_NUMBERS = re.compile(r"\[\n[^\[\]{}\"]+\]")  # a string holds no newline as such


def origin(
    schema: str,
    provenance: Provenance | None,
    *,
    num_parameters: int | None,
    num_samples: int | None,
) -> dict[str, Any]:
    """Say which schema this is, and which checkpoint, network and data it speaks of."""
    of = provenance
    return {
        "schema": schema,
        "version": __version__,
        "checkpoint": {
            "path": of.checkpoint if of else None,
            "sha256": of.checkpoint_sha256 if of else None,
            "num_parameters": num_parameters,
        },
        "model": {
            "name": of.model.name if of else None,
            "activation": of.model.activation if of else None,
            "beta": of.model.beta if of else None,
            "trained_with": _activation(of.trained_with) if of else None,
        },
        "data": {
            "spec": of.data if of else None,
            "split": of.split if of else None,
            "num_samples": num_samples,
            "sha256": of.data_sha256 if of else None,
        },
    }


def _activation(model: ModelSpec | None) -> dict[str, Any] | None:
    return None if model is None else {"activation": model.activation, "beta": model.beta}


def dumps(payload: dict[str, Any]) -> str:
    """Serialise a report, ending in a newline; a list of numbers takes one line."""
    text = json.dumps(payload, indent=2, allow_nan=False)
    return _NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n"


def finite(value: Any) -> Any:
    """Copy a JSON-like structure with None for every number that is not finite."""
    if isinstance(value, Struct):
        value = asdict(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
