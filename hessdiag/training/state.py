"""The full state of a run on disk: written atomically, the one before kept, damage detected."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from hessdiag.errors import InputError
from hessdiag.files import read_bytes, replacing

CURRENT, PREVIOUS = "state.pt", "state-previous.pt"
_DIGEST_LENGTH = 64  # hexadecimal SHA-256 of the rest, at the head of the file


def save(folder: Path, payload: dict[str, Any]) -> None:
    """Write the state; whenever the process dies, one good state is left.

    Args:
        folder: of the run.
        payload: tensors, numbers, strings, and lists and dictionaries of them.

    Raises:
        InputError: it cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest().encode()
    current = folder / CURRENT
    with replacing(current) as temporary:
        temporary.write_bytes(digest + content)
        if current.exists() and _is_intact(current):  # a damaged one must not push a good one out
            os.replace(current, folder / PREVIOUS)


def _is_intact(path: Path) -> bool:
    with path.open("rb") as file:
        digest = file.read(_DIGEST_LENGTH)
        return hashlib.file_digest(file, "sha256").hexdigest().encode() == digest


def load(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Read the state, or the one before if it is damaged.

    Returns:
        The payload on the CPU, None if the run was stopped before its first state; and a remark
        if it is not the last state, else None.

    Raises:
        InputError: all that there is is damaged.
    """
    if not any((folder / name).exists() for name in (CURRENT, PREVIOUS)):
        return None, "no state was written yet; starting from the beginning"
    reasons: list[str] = []
    for name in (CURRENT, PREVIOUS):
        path = folder / name
        try:
            content = read_bytes(path)
            digest, rest = content[:_DIGEST_LENGTH], content[_DIGEST_LENGTH:]
            if hashlib.sha256(rest).hexdigest().encode() != digest:
                raise ValueError("its checksum is wrong")
            payload = torch.load(io.BytesIO(rest), weights_only=True, map_location="cpu")
        except FileNotFoundError:
            reasons.append(f"{name} is not there")
        except Exception as error:  # damaged bytes may raise anything
            reasons.append(f"{name} is damaged: {error}")
        else:
            return payload, f"{reasons[0]}; going on from {name}" if reasons else None
    raise InputError(
        "the run's state cannot be read",
        got="; ".join(reasons),
        hint="start anew with train --force",
    )
