"""A run's folder: its configuration, metrics, checkpoints and curves."""

from __future__ import annotations

import dataclasses
import os
import secrets
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from hessdiag import codec, locks
from hessdiag.errors import InputError
from hessdiag.files import (
    check_writable,
    is_there,
    read_text,
    remove_leftovers,
    replacing,
    sha256,
    write_text,
)
from hessdiag.results import CheckpointOrigin
from hessdiag.training import state
from hessdiag.training.recipes import override
from hessdiag.training.run_config import Config

CONFIG, METRICS, LAST, BEST = (
    "config.toml",
    "metrics.jsonl",
    "model.safetensors",
    "best.safetensors",
)
STEPS, CURVES, REPORT = "steps.jsonl", "curves.png", "report.json"
BOARD, EVENTS = "tensorboard", ".hessdiag"  # a folder of its own, the end of our files' names
SWEEP = "sweep.json"  # in the folder above those of a sweep's runs
FILES = (CONFIG, state.CURRENT, state.PREVIOUS, METRICS, STEPS, LAST, BEST, CURVES, REPORT)


def check_free(folder: Path, *, force: bool, inputs: Iterable[str | None] = ()) -> None:
    """Refuse a folder that holds a run, unless ``force`` says to replace it.

    Args:
        folder: of a new run.
        force: whether the run in it may go.
        inputs: files that the new run needs.

    Raises:
        InputError: it holds a run; with ``force``, files that no run of ours wrote, or inputs.
    """
    present = _present(folder)
    own = [os.path.realpath(folder / name) for name in present]
    for path in inputs:
        if force and path and os.path.realpath(path) in own:
            raise InputError(
                "an output would replace an input",
                got=f"--force with {path}",
                wanted="another --out",
            )
    if present and not force:
        raise InputError(
            "the run's folder holds a run already",
            got=folder,
            hint="choose another --out, or --force; to go on with it: hessdiag train resume",
        )
    if present:
        try:
            read_config(folder)
        except InputError as error:
            raise InputError(
                "the run's folder holds files that are of no run",
                got=f"{', '.join(present)} in {folder}; {error.what}",
                hint="choose another --out, or move them",
            ) from error


def unused(stem: str) -> Path:
    """Think of a folder that no run has, for one that begins now."""
    return Path(f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}")


@contextmanager
def owned(folder: Path, *, new: bool = False) -> Generator[None]:
    """Make the folder of a run or a sweep, and own it: nobody else writes into it meanwhile.

    A folder made here goes again if the block fails before there is more in it than a
    configuration. Nothing else is ever cleaned up, but what killed processes left half-written.

    Args:
        folder: of a run or of a sweep.
        new: whether it must not be there yet.

    Raises:
        InputError: it cannot be made or written; another process owns it; or something in it with
            the name of a run's file would lead a run out of the folder.
    """
    try:
        made = [path for path in (folder, *folder.parents) if not is_there(path)]
        folder.mkdir(parents=True, exist_ok=not new)
    except (OSError, ValueError) as error:
        got = getattr(error, "strerror", error)
        raise InputError(f"cannot make the folder {folder}", got=got) from error
    try:
        check_writable(folder / CONFIG)
        with locks.owning(folder):
            remove_leftovers(folder)
            _check_places(folder)
            before = _present(folder)
            try:
                yield
            except BaseException:
                if not before and _present(folder) == [CONFIG]:  # it came to nothing
                    with suppress(OSError):
                        (folder / CONFIG).unlink()
                raise
    except BaseException:
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()
        raise


def prepare(folder: Path, config: Config) -> None:
    """Start a run's folder; what an earlier run left in it goes, its states first.

    Raises:
        InputError: it cannot be written.
    """
    with replacing(folder / CONFIG) as temporary:  # at every instant, one configuration is there
        temporary.write_text(config.to_toml(), encoding="utf-8")
        for path in (*(folder / name for name in FILES if name != CONFIG), *_events(folder)):
            path.unlink(missing_ok=True)


def is_finished(folder: Path, config: Config, outputs: Sequence[str] = ()) -> bool:
    """Tell whether ``folder`` holds the run of ``config``, with all its epochs and files.

    Args:
        folder: that may hold it.
        config: of the run.
        outputs: names of files that are written after training.

    Raises:
        InputError: it holds the run of another configuration.
    """
    if not _present(folder):
        return False
    if not _is_of(config, folder):
        raise InputError(
            "the run's folder holds a run of another configuration",
            got=folder,
            hint="choose another --out, or remove that folder",
        )
    present = {*_present(folder)}
    return (
        present.issuperset((METRICS, LAST, *outputs))
        and len(read_metrics(folder)) == config.recipe.epochs
        and _is_reported(folder)
    )


def digests(folder: Path, config: Config) -> set[str]:
    """List what a state may call ``config``: its digest, or that of a file as 0.1 wrote it."""
    kept = digest(folder / CONFIG) if _is_of(config, folder) else None
    return {config.digest, kept or config.digest}


def _is_of(config: Config, folder: Path) -> bool:
    try:
        return Config.from_toml(read_text(folder / CONFIG)) == config
    except OSError as error:
        if is_there(folder / CONFIG):  # a disk that fails is no other configuration
            raise InputError(f"{folder / CONFIG} cannot be read", got=error.strerror) from error
        return False
    except (InputError, ValueError):
        return False


def digest(path: Path) -> str | None:
    """Hash a file's bytes; None if they cannot be read."""
    try:
        return sha256(path)
    except OSError:
        return None


def _is_reported(folder: Path) -> bool:
    """Tell whether the last checkpoint is the one of the report, if there is a report."""
    try:
        report = codec.read(_Reported, folder / REPORT)
        return report.checkpoint.sha256 == sha256(folder / LAST)
    except (InputError, OSError):
        return not is_there(folder / REPORT)


class _Reported(Struct):
    """What a report says of the checkpoint."""

    checkpoint: CheckpointOrigin


def _present(folder: Path) -> list[str]:
    """List the files in the folder that have the name of a run's."""
    return [name for name in FILES if is_there(folder / name)]


def _events(folder: Path) -> Iterable[Path]:
    """List TensorBoard's events that runs of ours wrote."""
    place = folder / BOARD
    return [] if place.is_symlink() else place.glob(f"events.*{EVENTS}")


def _check_places(folder: Path) -> None:
    """Refuse links and folders in place of a run's files: nothing is written through them."""
    for name in (*FILES, SWEEP, BOARD):
        path = folder / name
        if path.is_symlink():
            got = f"{path}, a link to {os.readlink(path)}"
        elif path.exists() and path.is_dir() != (name == BOARD):
            got = f"{path}, a {'file' if name == BOARD else 'folder'}"
        else:
            continue
        raise InputError(
            "the run's folder has something else in place of a run's file", got=got, hint="move it"
        )


def read_config(folder: Path) -> Config:
    """Read the configuration of the run in ``folder``.

    Raises:
        InputError: there is no run, or its configuration cannot be read or is out of range.
    """
    try:
        text = read_text(folder / CONFIG)
    except (OSError, ValueError) as error:  # no UTF-8, a null byte in the name
        raise InputError(
            "there is no run to go on with",
            got=f"{folder / CONFIG}: {getattr(error, 'strerror', error)}",
            wanted="a folder that hessdiag train made",
        ) from error
    config = Config.from_toml(text)
    return dataclasses.replace(config, recipe=override(config.recipe))  # which checks the ranges


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the rows that ``write_metrics`` wrote.

    Raises:
        InputError: they cannot be read, or are no objects of JSON.
    """
    path = folder / METRICS
    lines = codec.read_bytes(path, what="the file").splitlines()
    return [codec.decode(dict[str, Any], line, what=f"the file {path}") for line in lines]


def count_epochs(folder: Path) -> int:
    """Count the epochs that the run in ``folder`` has closed, whoever trains it."""
    try:
        return (folder / METRICS).read_bytes().count(b"\n")
    except OSError:
        return 0


def write_metrics(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write all rows as JSON lines, in one step; what is not finite is null."""
    write_text(folder / METRICS, codec.encode_lines(rows))


def write_steps(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows of the steps logged, likewise."""
    write_text(folder / STEPS, codec.encode_lines(rows))
