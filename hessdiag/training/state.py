"""The full state of a run on disk: written atomically, the one before kept, damage detected."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch

from hessdiag.errors import InputError
from hessdiag.files import is_there, read_bytes, replacing

CURRENT, PREVIOUS = "state.pt", "state-previous.pt"
_DIGEST_LENGTH = 64  # hexadecimal SHA-256 of the rest, at the head of the file


def save(folder: Path, payload: dict[str, Any]) -> None:
    """Write the state and keep the one before; there is a current one at every instant.

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
    keep = (
        folder / PREVIOUS if _is_intact(current) else None
    )  # a damaged one pushes no good one out
    with replacing(current, keep=keep) as temporary:
        temporary.write_bytes(digest + content)


def _is_intact(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            digest = file.read(_DIGEST_LENGTH)
            return hashlib.file_digest(file, "sha256").hexdigest().encode() == digest
    except OSError:
        return False


def load(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Read the state, or the one before if it is damaged.

    Returns:
        The payload on the CPU, None if the run was stopped before its first state; and a remark
        if it is not the last state, else None.

    Raises:
        InputError: all that there is is damaged.
    """
    if not any(is_there(folder / name) for name in (CURRENT, PREVIOUS)):
        return None, "no state was written yet; starting from the beginning"
    reasons: list[str] = []
    for name in (CURRENT, PREVIOUS):
        path = folder / name
        try:
            content = read_bytes(path)
            digest, rest = content[:_DIGEST_LENGTH], content[_DIGEST_LENGTH:]
        except FileNotFoundError:
            reasons.append(f"{name} is not there")
            continue
        except OSError as error:
            reasons.append(f"{name} is damaged: {error.strerror}")
            continue
        if hashlib.sha256(rest).hexdigest().encode() != digest:
            reasons.append(f"{name} is damaged: its checksum is wrong")
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                payload = torch.load(io.BytesIO(rest), weights_only=True, map_location="cpu")
            if not isinstance(payload, dict):
                raise TypeError(type(payload).__name__)
        except Exception as error:  # forged bytes may raise anything, and torch's words give advice
            reasons.append(f"{name} is damaged: it holds no state ({type(error).__name__})")
        else:
            return payload, f"{reasons[0]}; going on from {name}" if reasons else None
    raise InputError(
        "the run's state cannot be read",
        got="; ".join(reasons),
        hint="start anew with train --force",
    )
