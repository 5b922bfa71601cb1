"""Reports where people keep them: files, and the folders of runs and sweeps."""

from __future__ import annotations

from pathlib import Path

from hessdiag import results
from hessdiag.errors import InputError
from hessdiag.results import Result
from hessdiag.training import folder
from hessdiag.training.history import Epoch
from hessdiag.training.train_result import TrainReport, unfinished


def read(path: str) -> Result:
    """Read a report, or that in the folder of a run or a sweep.

    Of a run without a report, one that is under way or was stopped, its epochs so far are taken.

    Raises:
        InputError: there is no such thing, it is too large, or it is not as its schema says.
    """
    try:
        place = _place(Path(path))
    except (OSError, ValueError) as error:  # too long a name, one with a null byte
        reason = getattr(error, "strerror", None) or error
        raise InputError("the report cannot be read", got=f"{path}: {reason}") from error
    return _unfinished(place.parent) if place.name == folder.CONFIG else results.read(place)


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


def _unfinished(run: Path) -> TrainReport:
    """Read what is known of a run without a report."""
    rows = folder.read_metrics(run) if (run / folder.METRICS).exists() else []
    return unfinished(folder.read_config(run), tuple(map(Epoch.from_row, rows)))
