"""What a command writes is nothing that it reads: one place for all commands."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from hessdiag.errors import InputError
from hessdiag.metadata import KEY, Metadata

_OUTPUTS = ("json", "plot", "output", "junit", "gitlab", "write_baseline")
_INPUTS = ("checkpoint", "subject", "a", "b", "source", "baseline", "config", "init")
_LIMITS = ("hessdiag.toml", "pyproject.toml")  # read without being named
_PARTS = {*(".json", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".txt", ".model", ".toml")}
_LONGEST_HEADER = 100_000_000  # of safetensors


def check(given: Mapping[str, Any]) -> None:
    """Refuse an output that is an input or another output, by whatever links and names.

    Args:
        given: arguments of any command by the names of its parameters.

    Raises:
        InputError: so it is.
    """
    outputs = {
        "--" + name.replace("_", "-"): given[name]
        for name in _OUTPUTS
        if given.get(name) not in (None, "-")
    }
    for (flag, path), (other, second) in itertools.combinations(outputs.items(), 2):
        if _is_same(path, second):
            raise InputError("two outputs are one file", got=f"{flag} and {other} {second}")
    named = [given.get(name) for name in _INPUTS]
    inputs = [path for one in named for path in (one if isinstance(one, list) else [one]) if path]
    specs = filter(None, [given.get("data"), *map(_data_of, inputs)])
    data = [path for spec in specs for path in _paths_of(spec)]
    root = given.get("data_root")
    for flag, path in outputs.items():
        for source in (*inputs, *_LIMITS, *data, *([root] if root else [])):
            is_data = source in data or source == root
            if _is_same(path, source) or _is_inside(path, source, is_data=is_data):
                raise InputError(
                    "an output would replace an input",
                    got=f"{flag} {path}",
                    wanted=f"a file other than {source}"
                    if _is_same(path, source)
                    else f"a file outside {source}",
                )


def _data_of(checkpoint: str) -> str | None:
    """Read in a checkpoint of ours on which data it was trained; whoever loads it tells faults."""
    try:
        if not os.path.isfile(checkpoint):
            return None
        with open(checkpoint, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, _LONGEST_HEADER)))
        data = Metadata.from_json(header["__metadata__"][KEY]).data
    except (OSError, ValueError, KeyError, TypeError, RecursionError, InputError):
        return None
    return data.spec if data else None


def _paths_of(spec: str) -> list[str]:
    """List what the data may be read from: a file or folder, and the file of the other split."""
    path = os.path.expanduser(re.sub(r"^(folder|text):", "", spec))
    splits = [path.replace("{split}", split) for split in ("train", "test")]
    return [*splits, re.sub(r"_train(\.\w+)$", r"_test\1", path)]


def _is_same(path: str, other: str) -> bool:
    try:
        if os.path.exists(path) and os.path.exists(other):
            return os.path.samefile(path, other)
        return os.path.realpath(path) == os.path.realpath(other)
    except (OSError, ValueError):
        return False


def _is_inside(path: str, folder: str, *, is_data: bool) -> bool:
    """Tell whether ``path`` is a file there is in an input folder, and no report of ours."""
    try:
        if not (os.path.isdir(folder) and os.path.isfile(path)):
            return False
        place, target = os.path.realpath(folder), os.path.realpath(path)
        if os.path.commonpath((place, target)) != place:
            return False
        if not is_data and os.path.splitext(target)[1].lower() not in _PARTS:
            return False
        with open(target, "rb") as file:
            return b'"schema": "hessdiag.' not in file.read(200)
    except (OSError, ValueError):
        return False
