"""A spectrum report read back from its JSON: the inverse of ``schema``, for files of any origin."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from hessdiag import files
from hessdiag.errors import InputError, unknown
from hessdiag.linalg.density import Density
from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate
from hessdiag.metadata import ModelSpec, Provenance
from hessdiag.parts import PARTS
from hessdiag.reports.spectrum.schema import SPECTRUM
from hessdiag.spectra.spectrum_result import Cost, FiniteRadius, Part, Report, Settings


def read_spectrum(path: str | os.PathLike[str]) -> tuple[Report, Provenance | None]:
    """Read a ``hessdiag.spectrum/1`` report; keys that are not known are passed over.

    Raises:
        InputError: no such file, too large, no JSON, another schema, or a field that is missing,
            null or of the wrong kind.
    """
    try:
        payload = json.loads(files.read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)[:160]
        raise InputError(f"cannot read the report {path}", got=reason) from error
    schema = payload.get("schema") if isinstance(payload, dict) else None
    if schema != SPECTRUM:
        raise InputError(
            f"{path} is no report of hessdiag spectrum",
            got="no schema" if schema is None else f"schema {schema!r:.80}",
            wanted=SPECTRUM,
        )
    try:
        return _report(payload), _provenance(payload)
    except InputError as error:
        raise InputError(
            f"cannot read the report {path}: {error.what}", got=error.got, wanted=error.wanted
        ) from error


def _report(raw: dict[str, Any]) -> Report:
    named = _take(dict[str, Any], raw, "parts")
    for name in named:
        if name not in PARTS:
            raise unknown("part", name, PARTS)
    return Report(
        parts={name: _part(raw, name) for name in named},
        loss_name=_take(str, raw, "loss", "name"),
        loss=_take(float, raw, "loss", "value"),
        accuracy=_take(float | None, raw, "loss", "accuracy"),
        num_parameters=_take(int, raw, "checkpoint", "num_parameters"),
        num_samples=_take(int, raw, "data", "num_samples"),
        gradient_norm=_take(float, raw, "gradient", "norm"),
        rayleigh=_take(dict[str, float | None], raw, "gradient", "rayleigh"),
        decomposition_residual=_take(float, raw, "checks", "decomposition_residual"),
        symmetry_residual=_take(float | None, raw, "checks", "symmetry_residual"),
        settings=_take(Settings, raw, "settings"),
        dtype=_take(str, raw, "settings", "dtype"),
        device=_take(str, raw, "settings", "device"),
        bn=_take(str, raw, "settings", "bn"),
        params=_take(tuple[str, ...] | None, raw, "settings", "params"),
        cost=_take(Cost, raw, "cost"),
        finite_radius=_take(FiniteRadius | None, raw, "finite_radius"),
    )


def _part(raw: dict[str, Any], name: str) -> Part:
    def take(kind: Any, *keys: str) -> Any:
        return _take(kind, raw, "parts", name, *keys)

    density: Density | None = take(Density | None, "density")
    if density is not None and not len(density.nodes) == len(density.weights) > 0:
        raise InputError(f"the density of {name} has no nodes, or not a weight for each")
    layers = take(dict[str, Any] | None, "layers")
    return Part(
        trace=take(Estimate, "trace"),
        frobenius_norm=take(Estimate, "frobenius_norm"),
        top=take(tuple[RitzValue, ...], "top"),
        bottom=take(tuple[RitzValue, ...], "bottom"),
        density=density,
        layers=layers and {layer: take(Estimate, "layers", layer, "trace") for layer in layers},
        target_reached=take(bool | None, "trace", "target_reached"),
    )


def _provenance(raw: dict[str, Any]) -> Provenance | None:
    name = _take(str | None, raw, "model", "name")
    if name is None:  # a network in memory, of which the library knows no more
        return None
    before = _take(dict[str, Any] | None, raw, "model", "trained_with")
    return Provenance(
        checkpoint=_take(str | None, raw, "checkpoint", "path"),
        checkpoint_sha256=_take(str | None, raw, "checkpoint", "sha256"),
        model=_take(ModelSpec, raw, "model"),
        data=_take(str, raw, "data", "spec"),
        split=_take(str, raw, "data", "split"),
        data_sha256=_take(str, raw, "data", "sha256"),
        batch_size=_take(int, raw, "settings", "batch_size"),
        trained_with=before and _rebuild(ModelSpec, {**before, "name": name}, "model.trained_with"),
    )


def _take(kind: Any, raw: Any, *keys: str) -> Any:
    """Make a ``kind`` of what lies at ``keys``; nothing there counts as null."""
    for index, key in enumerate(keys):
        raw = _rebuild(dict[str, Any], raw, ".".join(keys[:index])).get(key)
    return _rebuild(kind, raw, ".".join(keys))


def _rebuild(kind: Any, value: Any, at: str) -> Any:
    """Make a ``kind`` of its JSON: a dataclass, a tuple, an array, a dict, a number, a text."""
    if isinstance(kind, types.UnionType):  # X | None
        return None if value is None else _rebuild(get_args(kind)[0], value, at)
    base, items = get_origin(kind) or kind, get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        found, hints = _rebuild(dict[str, Any], value, at), get_type_hints(kind)
        known = {
            field.name: _rebuild(hints[field.name], found.get(field.name), f"{at}.{field.name}")
            for field in dataclasses.fields(kind)
            if field.name in found or field.default is dataclasses.MISSING
        }
        return base(**known)
    if base is np.ndarray:
        return np.array(_rebuild(tuple[float, ...], value, at))
    if base is dict and isinstance(value, dict):
        return {key: _rebuild(items[1], item, f"{at}.{key}") for key, item in value.items()}
    if base is tuple and isinstance(value, list) and (... in items or len(value) == len(items)):
        return tuple(_rebuild(items[0], item, f"{at}.{i}") for i, item in enumerate(value))
    if base is float and type(value) is int and value.bit_length() < 1000:
        value = float(value)
    if type(value) is not base or (isinstance(value, float) and not math.isfinite(value)):
        raise InputError(
            f"{at or 'the report'} is not of the right kind",
            got="nothing, or null" if value is None else repr(value)[:80],
            wanted=getattr(kind, "__name__", str(kind)),
        )
    return value
