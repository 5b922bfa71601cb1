"""What ``torch.save`` writes: ``.pt``, ``.pth``, ``.pth.tar``, ``.bin``, Lightning's ``.ckpt``."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from hessdiag import bounds, files
from hessdiag.errors import InputError
from hessdiag.nets.checkpoints import state_dicts
from hessdiag.nets.checkpoints.checkpoint import Checkpoint, Choice
from hessdiag.nets.checkpoints.stand_ins import admitted

WANTED = ".pt, .pth, .pth.tar, .bin or .ckpt"
_SUFFIXES = (".pt", ".pth", ".th", ".tar", ".bin", ".ckpt")
_HINT = "save the weights alone: torch.save(model.state_dict(), path)"


def match(path: Path) -> bool:
    """Tell by the suffix."""
    return path.suffix.lower() in _SUFFIXES


def read(path: Path, choice: Choice) -> Checkpoint:
    """Read a file with a state dict in it, by ``torch.load(weights_only=True)`` alone.

    Raises:
        InputError: it is damaged, holds code, or no state dict.
    """
    data = content(path)
    outer = load(path, data)
    tensors, notes = state_dicts.find(outer, path, choice)
    _check_views(path, tensors, len(data))
    arguments = _hyper_parameters(outer)
    return Checkpoint(
        path, hashlib.sha256(data).hexdigest(), tensors, notes=notes, arguments=arguments
    )


def content(path: Path) -> bytes:
    """Read a file's bytes.

    Raises:
        InputError: there is no such file, or it is a device, a pipe or a folder.
    """
    try:
        return files.read_bytes(path)
    except (OSError, ValueError) as error:  # a null byte in the name
        got = getattr(error, "strerror", error)
        raise InputError(f"cannot read the checkpoint {path}", got=got) from error


def load(path: Path, data: bytes) -> object:
    """Unpickle tensors, plain values, and what ``stand_ins`` knows; nothing is run.

    Raises:
        InputError: the bytes are damaged, too compressed, or name code.
    """
    bounds.check_archive(path, io.BytesIO(data))
    try:
        with warnings.catch_warnings(), admitted():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # damaged bytes may raise anything
        if forbidden := re.search(r"GLOBAL (\S+)", str(error)):
            raise InputError(
                f"{path} holds more than tensors, and loading it could run code",
                got=forbidden.group(1)[:200],
                hint=_HINT,
            ) from error
        if "TorchScript" in str(error):
            raise InputError(f"{path} holds a program of TorchScript", hint=_HINT) from error
        raise InputError(
            f"{path} is damaged, or no checkpoint of tensors", got=reason(error), hint=_HINT
        ) from error


def _check_views(path: Path, tensors: Mapping[str, Tensor], size: int) -> None:
    """Refuse expanded tensors, whose elements share memory, if copies would be out of bounds."""
    views = {
        (t.untyped_storage().data_ptr(), t.storage_offset(), t.shape, t.stride()): t.nbytes
        for t in tensors.values()
        if t.layout == torch.strided
    }
    bounds.check(path, sum(views.values()), size)


def _hyper_parameters(outer: object) -> dict[str, Any]:
    """Take the arguments of a LightningModule, as its ``save_hyperparameters`` kept them."""
    if not isinstance(outer, dict):
        return {}
    whole = cast("dict[Any, Any]", outer)
    given, name = whole.get("hyper_parameters"), whole.get("hparams_name")
    if not isinstance(given, dict):
        return {}
    arguments = {k: v for k, v in cast("dict[Any, Any]", given).items() if isinstance(k, str)}
    if isinstance(name, str) and name != "kwargs" and name not in arguments:
        return {name: arguments}  # the whole went into one argument, by this name
    return arguments


def reason(error: Exception) -> str:
    """Say what is wrong in one sentence, without torch's advice to run the code after all."""
    texts = re.split(r"\n\s*\n|\n|(?<=[.!?])\s", str(error).strip())
    advice = re.compile(
        r"weights.only|trust|safe_globals|pytorch\.org|two options|re-running", re.I
    )
    own = [text.strip() for text in texts if text.strip() and not advice.search(text)]
    return f"{type(error).__name__}: {own[0][:200]}" if own else type(error).__name__
