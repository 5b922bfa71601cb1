"""What a page is made of: JSON reports, and the folders of runs and sweeps."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hessdiag import files, results
from hessdiag.errors import InputError
from hessdiag.show.document import Code, Document
from hessdiag.training import folder
from hessdiag.training.history import Epoch
from hessdiag.training.train_result import TrainReport, unfinished

_MOST_BYTES = 32 * 2**20  # of text, which may take 30 times as much memory when parsed


@dataclass(frozen=True)
class Source:
    """A report as read.

    Attributes:
        path: of the file or folder.
        payload: the report, an object of JSON; what is not finite is None.
    """

    path: str
    payload: dict[str, Any]
    document: Document | None = None


def read(path: str) -> Source:
    """Read a JSON report, or the report in the folder of a run or a sweep.

    Of a run without a report, one that is under way or was stopped, its epochs so far are taken.

    Raises:
        InputError: there is no such thing, it is too large, or it is no object of JSON.
    """
    try:
        place = _place(Path(path))
        if place.name == folder.CONFIG:
            result = _unfinished(place.parent)
        else:
            payload = _report(place)
            if str(payload.get("schema")) not in results.KINDS:
                return Source(path, payload)
            result = results.read(place)
        document = result.document()
        told = [("source", Code(path)), *document.origin]
        return Source(path, {}, dataclasses.replace(document, origin=told))
    except (OSError, ValueError) as error:  # no UTF-8, too long a name, one with a null byte
        reason = getattr(error, "strerror", None) or error
        raise InputError("the report cannot be read", got=f"{path}: {reason}") from error


def _place(place: Path) -> Path:
    """Find the file that tells most of a run or a sweep."""
    if not place.is_dir():
        return place
    for name in (folder.REPORT, folder.SWEEP, folder.CONFIG):
        if (place / name).exists():
            return place / name
    raise InputError(
        "the folder holds no run",
        got=place,
        wanted=f"{folder.REPORT}, {folder.SWEEP} or {folder.CONFIG} in it",
    )


def _report(path: Path) -> dict[str, Any]:
    payload = _parse(path, _text(path))
    if not isinstance(payload, dict):
        raise InputError(
            "the report is damaged", got=f"{path}: {type(payload).__name__}", wanted="an object"
        )
    return payload


def _text(path: Path) -> str:
    return files.read_text(path, _MOST_BYTES)


def _parse(path: Path, text: str) -> Any:
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise InputError(
            "the report is damaged",
            got=f"{path}: {error}",
            wanted="the JSON that hessdiag writes with --json",
        ) from error


def _finite(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


def _unfinished(run: Path) -> TrainReport:
    """Read what is known of a run without a report."""
    rows = folder.read_metrics(run) if (run / folder.METRICS).exists() else []
    return unfinished(folder.read_config(run), tuple(map(Epoch.from_row, rows)))
