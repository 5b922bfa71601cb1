"""How much memory a file may ask for: enough for any honest one, not what a few bytes can name."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import BinaryIO

from hessdiag.errors import InputError

LEAST = 512 << 20
"""Bytes that every file may ask for."""
EXPANSION = 8
"""Times its own size that a larger file may ask for."""


def check(path: object, needed: int, size: int) -> None:
    """Refuse to decode a file into far more bytes than it has, before any are allocated.

    Args:
        path: of the file, for the message.
        needed: bytes that its content would take in memory.
        size: bytes of the file.

    Raises:
        InputError: they are too many.
    """
    if needed > max(LEAST, EXPANSION * size):
        raise InputError(
            f"{path} asks for far more memory than it has bytes",
            got=f"{needed:,} bytes from a file of {size:,}",
            wanted=f"at most {EXPANSION} times its size, or {LEAST:,} bytes",
            hint="store it without compression, and tensors as contiguous copies",
        )


def check_archive(path: Path, stored: BinaryIO | None = None) -> None:
    """Refuse a compressed archive whose members together are out of bounds; no archive passes.

    Args:
        path: of the file.
        stored: its bytes, if they were read already.

    Raises:
        InputError: they are.
    """
    try:
        with zipfile.ZipFile(path if stored is None else stored) as archive:
            members = archive.infolist()
    except Exception:  # damaged, or no archive: its reader will tell
        return
    check(path, sum(m.file_size for m in members), sum(m.compress_size for m in members))
