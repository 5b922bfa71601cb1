"""What a limit is, and where limits are written: options, ``hessdiag.toml``, ``pyproject.toml``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hessdiag import codec
from hessdiag.errors import InputError, unknown
from hessdiag.metrics import metric_table
from hessdiag.metrics.metric import Metric

KINDS = ("max", "min", "max-increase")
_FILES = ("hessdiag.toml", "pyproject.toml")
_SETTINGS: dict[str, type | tuple[type, ...]] = {
    "baseline": str,
    "confidence": (int, float),
    "max-probes": int,
    "max-seconds": (int, float),
}


@dataclass(frozen=True)
class Limit:
    """A bound on a metric, or on its increase over a baseline.

    Attributes:
        kind: "max", "min" or "max-increase".
        metric: its name.
        bound: of the metric or the increase; a share of the baseline if ``relative``.
        relative: whether the increase is divided by the baseline's size.
    """

    kind: str
    metric: str
    bound: float
    relative: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of limit", self.kind, KINDS)
        metric_table.parse(self.metric)
        if not math.isfinite(self.bound):
            raise InputError(f"the limit of {self.metric} is not finite", got=self.bound)
        if self.relative and self.kind != "max-increase":
            raise InputError(
                f"a share of what is the limit of {self.metric}?",
                got=f"{self.kind} {self.bound:.6g} as a share",
                wanted=f"a plain number, or {self.metric} in max-increase",
            )

    @property
    def parsed(self) -> Metric:
        """The metric in the table of all."""
        return metric_table.parse(self.metric)

    @property
    def text(self) -> str:
        """The bound as people write it, such as ``≤ 120`` or ``≤ +10 %``."""
        size = f"{100 * self.bound:.6g} %" if self.relative else f"{self.bound:.6g}"
        sign = "+" if self.kind == "max-increase" and self.bound >= 0 else ""
        return f"{'≥' if self.kind == 'min' else '≤'} {sign}{size}"


@dataclass(frozen=True)
class Config:
    """What a file says of the gate.

    Attributes:
        limits: in the order of the file.
        baseline: path of a report to compare with, or None.
        settings: those of confidence, max_probes and max_seconds that are given.
    """

    limits: tuple[Limit, ...] = ()
    baseline: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


def parse(kind: str, text: str) -> Limit:
    """Read ``METRIC=VALUE`` or, of an increase, ``METRIC=10%``.

    Raises:
        InputError: it is neither, or there is no such metric.
    """
    metric, equals, bound = text.rpartition("=")
    if not equals:
        raise InputError(
            f"--{kind} has no value", got=repr(text), wanted=f"as in --{kind} hessian.trace=120"
        )
    return _limit(kind, metric.strip(), bound)


def from_table(table: Mapping[str, Any]) -> tuple[Limit, ...]:
    """Read limits from ``{"max": {metric: value}, "min": …, "max-increase": {metric: "10%"}}``.

    Metrics may be nested, as TOML does with names that are not quoted.

    Raises:
        InputError: an unknown kind or metric, or a value that is no number.
    """
    limits: list[Limit] = []
    for kind, entries in table.items():
        if kind not in KINDS:
            raise unknown("kind of limit", str(kind), KINDS)
        if not isinstance(entries, Mapping):
            raise InputError(f"{kind} holds no limits", got=repr(entries), wanted="metric = value")
        limits += [_limit(kind, metric, value) for metric, value in _flat(entries)]
    return tuple(limits)


def find(path: str | None = None, folder: str = ".") -> Config:
    """Read the gate's table: ``[gate]`` of a file, ``[tool.hessdiag.gate]`` of pyproject.toml.

    Args:
        path: the file; None for ``hessdiag.toml`` or ``pyproject.toml`` in ``folder``, the first
            that holds a gate.
        folder: where to look.

    Raises:
        InputError: the file cannot be read, or holds what is no limit or setting.
    """
    places = [Path(path)] if path is not None else [Path(folder) / name for name in _FILES]
    for place in places:
        if path is None and not place.is_file():
            continue
        table = _table(place)
        if table is not None:
            return _config(table, place)
        if path is not None:
            where = "[tool.hessdiag.gate]" if place.name == _FILES[1] else "[gate]"
            raise InputError(f"{place} holds no gate", wanted=f"a table {where}")
    return Config()


def override(limits: Iterable[Limit], by: Iterable[Limit]) -> tuple[Limit, ...]:
    """Let limits replace those of the same kind on the same metric, and join the others."""
    merged = {(limit.kind, limit.parsed.name): limit for limit in (*limits, *by)}
    return tuple(merged.values())


def _limit(kind: str, metric: str, value: Any) -> Limit:
    relative = isinstance(value, str) and value.strip().endswith("%")
    number = value.strip().removesuffix("%") if isinstance(value, str) else value
    try:
        if isinstance(value, bool):
            raise TypeError
        bound = float(number)
    except (TypeError, ValueError, OverflowError):
        wanted = "a number, or one in % as in 10%" if kind == "max-increase" else "a number"
        raise InputError(
            f"the limit of {metric} is no number", got=repr(value), wanted=wanted
        ) from None
    return Limit(kind, metric, bound / 100 if relative else bound, relative)


def _flat(entries: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in entries.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _table(place: Path) -> dict[str, Any] | None:
    text = codec.read_bytes(place, what="the file")
    table: Any = codec.decode_toml(dict[str, Any], text, what=f"the file {place}")
    keys = ("tool", "hessdiag", "gate") if place.name == "pyproject.toml" else ("gate",)
    for key in keys:
        if not isinstance(table, dict):
            raise InputError(f"[{'.'.join(keys)}] of {place} is no table")
        if key not in table:
            return None
        table = table[key]
    if not isinstance(table, dict):
        raise InputError(f"[{'.'.join(keys)}] of {place} is no table", got=repr(table)[:80])
    return table


def _config(table: dict[str, Any], place: Path) -> Config:
    found = {key: value for key, value in table.items() if key not in KINDS}
    for key, value in found.items():
        if key not in _SETTINGS:
            raise unknown(f"key of the gate in {place}", key, (*KINDS, *_SETTINGS))
        if not isinstance(value, _SETTINGS[key]) or isinstance(value, bool):
            raise InputError(f"{key} in {place} is of the wrong kind", got=repr(value)[:80])
    baseline = found.pop("baseline", None)
    return Config(
        limits=from_table({key: table[key] for key in KINDS if key in table}),
        baseline=None if baseline is None else str(place.parent / baseline),
        settings={key.replace("-", "_"): value for key, value in found.items()},
    )
