"""A folder of weights, in one file or in shards with an index, that does not say whose they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from hessdiag import bounds, codec, files
from hessdiag.errors import InputError
from hessdiag.nets.checkpoints import state_dicts
from hessdiag.nets.checkpoints.checkpoint import Checkpoint, Choice
from hessdiag.nets.checkpoints.formats import safetensors_file, torch_file

WANTED = "a folder with model.safetensors, pytorch_model.bin, or shards of them and an index"
_NAMES = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"


def match(path: Path) -> bool:
    """Tell by the weights within, where no configuration says whose they are."""
    told = any(os.path.isfile(path / name) for name in ("config.json", "adapter_config.json"))
    return not told and any(os.path.isfile(path / name) for name in _known())


def read(path: Path, choice: Choice) -> Checkpoint:
    """Read all shards.

    Raises:
        InputError: one is missing or damaged, or the index names a file elsewhere.
    """
    tensors: dict[str, Tensor] = {}
    for file in weights(path):
        data = torch_file.content(file)
        if file.suffix == ".safetensors":
            tensors |= safetensors_file.load(file, data)[0]
        else:
            tensors |= state_dicts.find(torch_file.load(file, data), file, Choice())[0]
    return Checkpoint(path, sha256(path), state_dicts.select(tensors, path, choice))


def weights(path: Path) -> list[Path]:
    """List the files that hold the weights of a folder, shards in the order of their names.

    Raises:
        InputError: there are none, the index cannot be read, or a file of it is not there.
    """
    first = next((name for name in _known() if os.path.exists(path / name)), None)
    if first is None:
        raise InputError(f"the folder {path} holds no weights", wanted=", ".join(_NAMES))
    names = _shards(path / first) if first.endswith(INDEX) else [first]
    for name in names:
        file = path / name
        if not os.path.isfile(file):
            kind = "a device, a pipe or a folder" if os.path.exists(file) else "nothing"
            raise InputError(f"the weights {file} are no file", got=kind)
        if file.suffix == ".bin":
            bounds.check_archive(file)
    return [path / name for name in names]


def sha256(path: Path, more: Iterable[str] = ()) -> str:
    """Hash the files of a folder's weights, and ``more`` of it, as one."""
    digest = hashlib.sha256()
    for file in [*(path / name for name in more), *weights(path)]:
        digest.update(files.sha256(file).encode())
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON object.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    return codec.read(dict[str, Any], path, what="the file")


def _known() -> list[str]:
    return [name + ending for name in _NAMES for ending in ("", INDEX)]


def _shards(index: Path) -> list[str]:
    places = read_json(index).get("weight_map")
    named = list(cast("dict[str, Any]", places).values()) if isinstance(places, dict) else []
    names = {name for name in named if isinstance(name, str) and name and Path(name).name == name}
    if not names or not all(isinstance(name, str) and name in names for name in named):
        raise InputError(
            f"the index {index} names no shards beside it",
            got=", ".join(f"{name!r:.80}" for name in named[:3]) or "no weight_map",
            wanted="names of files in the same folder",
        )
    return sorted(names)
