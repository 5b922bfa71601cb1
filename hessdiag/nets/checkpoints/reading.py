"""The table of formats, and the one way to read any of them."""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
from pathlib import Path
from typing import cast

from hessdiag.errors import InputError
from hessdiag.nets.checkpoints import formats
from hessdiag.nets.checkpoints.checkpoint import Checkpoint, Choice, Format
from hessdiag.nets.checkpoints.formats import weights_folder


def read(path: str | os.PathLike[str], choice: Choice | None = None) -> Checkpoint:
    """Read a checkpoint of any form that a file in ``formats`` knows.

    Args:
        path: a file, a folder, or the index of the shards in one.
        choice: which of its weights are wanted; None for the usual ones.

    Raises:
        InputError: no such file, an unknown form, a damaged file, one that holds code or no
            tensors, or metadata that cannot be read.
    """
    place = Path(path)
    try:
        place = place.expanduser()
        if place.name.endswith(weights_folder.INDEX) and place.is_file():
            place = place.parent  # an index of shards stands for the folder
        match = next((form for form in table() if form.match(place)), None)
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, a loop, a user unknown
        got = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read the checkpoint {path}", got=got) from error
    if match is None:
        if place.is_dir():
            raise InputError(
                f"the folder {path} holds no checkpoint of a known form",
                got=", ".join(sorted(os.listdir(place))[:8]) or "nothing",
                wanted="one that Hugging Face's save_pretrained or PEFT wrote, or a file",
            )
        raise InputError(
            "a checkpoint's name has an unknown suffix",
            got=path,
            wanted=", ".join(form.WANTED for form in table()),
        )
    checkpoint = match.read(place, choice or Choice())
    if not checkpoint.tensors:
        raise InputError(f"the checkpoint {path} holds no tensors")
    return checkpoint


@functools.cache
def table() -> tuple[Format, ...]:
    """List the formats: every module in ``formats``."""
    names = [module.name for module in pkgutil.iter_modules(formats.__path__)]
    modules = [importlib.import_module(f"{formats.__name__}.{name}") for name in names]
    return tuple(cast(Format, module) for module in modules)
