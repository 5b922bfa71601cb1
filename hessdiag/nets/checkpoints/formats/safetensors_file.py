"""``.safetensors``: of this project, with metadata in its header, or of any other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from hessdiag.errors import InputError
from hessdiag.metadata import KEY, Metadata
from hessdiag.nets.checkpoints import state_dicts
from hessdiag.nets.checkpoints.checkpoint import Checkpoint, Choice
from hessdiag.nets.checkpoints.formats import torch_file

WANTED = ".safetensors"


def match(path: Path) -> bool:
    """Tell by the suffix."""
    return path.suffix.lower() == ".safetensors"


def read(path: Path, choice: Choice) -> Checkpoint:
    """Read the tensors, and this project's metadata where there are any.

    Raises:
        InputError: it is damaged, or its metadata cannot be read.
    """
    data = torch_file.content(path)
    tensors, header = load(path, data)
    text = (header.get("__metadata__") or {}).get(KEY)
    return Checkpoint(
        path,
        hashlib.sha256(data).hexdigest(),
        state_dicts.select(tensors, path, choice),
        None if text is None else Metadata.from_json(text),
    )


def load(path: Path, data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Give the tensors and the header that these bytes hold.

    Raises:
        InputError: they are damaged.
    """
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except Exception as error:  # damaged bytes may raise anything
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(f"{path} is damaged, or no safetensors file", got=reason) from error
    return tensors, header
