"""A run's folder: its configuration, metrics, checkpoints and curves."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import tomllib
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hessdiag.errors import InputError
from hessdiag.files import check_writable, read_text, write_text
from hessdiag.training import state
from hessdiag.training.recipes import Recipe, override, typed
from hessdiag.training.task import Strengths

CONFIG, METRICS, LAST, BEST = (
    "config.toml",
    "metrics.jsonl",
    "model.safetensors",
    "best.safetensors",
)
STEPS, CURVES, REPORT = "steps.jsonl", "curves.png", "report.json"
BOARD = "tensorboard"  # a folder of its own
SWEEP = "sweep.json"  # in the folder above those of a sweep's runs
FILES = (CONFIG, METRICS, STEPS, LAST, BEST, CURVES, REPORT, state.CURRENT, state.PREVIOUS)


@dataclass(frozen=True)
class Config:
    """All that a run is made of; two runs of one configuration are equal, bit for bit.

    Attributes:
        recipe: network, data, optimiser, schedule.
        regulariser: name.
        strengths: its options, complete.
        seed: of all randomness.
        num_samples: training examples drawn, or None for all.
        data_root: folder of torchvision's data sets, or None.
        save_every: steps between states; None for one an epoch.
        on_nonfinite: "stop" or "skip", for a step whose loss or gradient is not finite.
        log_every: steps between rows of steps.jsonl; None for none.
        track: metrics to measure, see :class:`hessdiag.training.tracking.Tracker`.
        track_every: epochs between measurements; the last epoch is measured always.
        pac_bayes: whether the report is to hold the PAC-Bayes bound.
        compile: whether torch.compile is to translate the network, for methods of first order.
    """

    recipe: Recipe
    regulariser: str
    strengths: Strengths
    seed: int = 0
    num_samples: int | None = None
    data_root: str | None = None
    save_every: int | None = None
    on_nonfinite: str = "stop"
    log_every: int | None = None
    track: tuple[str, ...] = ()
    track_every: int = 1
    pac_bayes: bool = False
    compile: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 of the configuration."""
        return hashlib.sha256(self.to_toml().encode()).hexdigest()

    def to_toml(self) -> str:
        """Lay the configuration out; None is left out."""
        sections = {
            "recipe": dataclasses.asdict(self.recipe),
            "strengths": dataclasses.asdict(self.strengths),
        }
        own = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in sections
        }
        lines = [f"{name} = {_toml(value)}" for name, value in own.items() if value is not None]
        for section, fields in sections.items():
            lines += ["", f"[{section}]"]
            lines += [
                f"{key} = {_toml(value)}" for key, value in fields.items() if value is not None
            ]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> Config:
        """Read what ``to_toml`` wrote.

        Raises:
            InputError: it is no such thing.
        """
        try:
            raw: dict[str, Any] = tomllib.loads(text)
            fields: dict[str, Any] = {"activation": None, **_checked(Recipe, raw.pop("recipe"))}
            strengths = Strengths(**_checked(Strengths, raw.pop("strengths")))
            return cls(recipe=Recipe(**fields), strengths=strengths, **_checked(cls, raw))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                "the run's configuration cannot be read", got=f"{CONFIG}: {error}"
            ) from error


def check_free(folder: Path, *, force: bool) -> None:
    """Refuse a folder that holds a run, unless ``force`` says to replace it.

    Raises:
        InputError: it holds a run.
    """
    if not force and _holds_a_run(folder):
        raise InputError(
            "the run's folder holds a run already",
            got=folder,
            hint="choose another --out, or --force; to go on with it: hessdiag train resume",
        )


@contextmanager
def made(folder: Path) -> Generator[None]:
    """Make the folder of a run; what is made here goes again if the run comes to nothing.

    Raises:
        InputError: it cannot be made or written.
    """
    new = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    replaces = _holds_a_run(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        got = getattr(error, "strerror", error)
        raise InputError(f"cannot make the folder {folder}", got=got) from error
    try:
        check_writable(folder / CONFIG)
        yield
    except BaseException:
        if not replaces and not (folder / state.CURRENT).exists():  # nothing to go on with
            with suppress(OSError):
                _clear(folder)
            with suppress(OSError):  # not empty
                for path in new:
                    path.rmdir()
        raise


def prepare(folder: Path, config: Config) -> None:
    """Start a run's folder; what an earlier run left in it goes.

    Raises:
        InputError: it cannot be written.
    """
    _clear(folder)
    write_text(folder / CONFIG, config.to_toml())


def is_finished(folder: Path, config: Config) -> bool:
    """Tell whether ``folder`` holds the run of ``config``, with all its epochs.

    Raises:
        InputError: it holds the run of another configuration.
    """
    if not _holds_a_run(folder):
        return False
    path = folder / CONFIG
    if not path.exists() or path.read_bytes() != config.to_toml().encode():
        raise InputError(
            "the run's folder holds a run of another configuration",
            got=folder,
            hint="choose another --out, or remove that folder",
        )
    return (folder / METRICS).exists() and len(read_metrics(folder)) == config.recipe.epochs


def _holds_a_run(folder: Path) -> bool:
    return any(os.path.exists(folder / name) for name in FILES)


def _clear(folder: Path) -> None:
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / BOARD, ignore_errors=True)


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
    try:
        rows = [json.loads(line) for line in read_text(path).splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("the run's metrics cannot be read", got=f"{path}: {error}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise InputError("the run's metrics cannot be read", got=path, wanted="objects of JSON")
    return rows


def write_metrics(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write all rows as JSON lines, in one step; what is not finite is null."""
    _write_lines(folder / METRICS, rows)


def write_steps(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows of the steps logged, likewise."""
    _write_lines(folder / STEPS, rows)


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(_finite(row)) + "\n" for row in rows))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _toml(value: Any) -> str:
    """Write a string, number, truth value or list of them; JSON's forms are TOML's, too."""
    text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")


def _checked(kind: type[Any], raw: dict[str, Any]) -> dict[str, Any]:
    """Check values against the annotations of a dataclass's fields."""
    kinds = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    return {name: typed(name, value, kinds[name]) for name, value in raw.items()}
