"""One place for writing files: beside the target, then renamed, so nothing is ever half-written."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from hessdiag.errors import InputError

LARGEST = 64 << 20
"""Bytes of a text that is read; a report on every layer of a large network takes a few million."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Generator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, else it vanishes.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    check_writable(path)
    target = Path(path).resolve()  # a link stays a link
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".hessdiag-")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; results are ordinary ones
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"cannot write {target}", got=error.strerror or error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` in one step.

    Raises:
        InputError: it cannot be written, or holds what is no Unicode, as from a file's odd name.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"cannot write {path}", got=f"text that is no Unicode: {error}") from error


def read_bytes(path: str | os.PathLike[str], at_most: int | None = None) -> bytes:
    """Read a file; a device or a pipe, which might never end, is refused unread.

    Raises:
        OSError: there is no file, it is none, or it is larger than ``at_most`` bytes.
        ValueError: the name has a null byte.
    """
    status = os.stat(path)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(errno.ENODEV, "it is a device or a pipe, no file")
    if at_most is not None and status.st_size > at_most:
        raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, at most {at_most:,} are read")
    return Path(path).read_bytes()


def read_text(path: str | os.PathLike[str], at_most: int = LARGEST) -> str:
    """Read a text of a size that a report or a configuration may have.

    Raises:
        OSError: as ``read_bytes``, or it is larger than ``at_most`` bytes.
        ValueError: it is no UTF-8, or the name has a null byte.
    """
    return read_bytes(path, at_most).decode("utf-8")


def append_text(path: str | os.PathLike[str], text: str) -> None:
    """Add ``text`` to the end of ``path``, which others write to as well.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
    except (OSError, ValueError) as error:
        got = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {path}", got=got) from error


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse an output path early, before any long computation.

    Raises:
        InputError: ``path`` is a folder, or its folder is missing or read-only.
    """
    try:
        target = Path(path).resolve()
        if target.is_dir():
            raise InputError("the output path is a folder", got=path, wanted="a file name")
        if target.exists() and not target.is_file():
            raise InputError(
                "the output path is a device or a pipe", got=path, wanted="a file name"
            )
        if not target.parent.is_dir():
            raise InputError(
                "the output path's folder does not exist", got=target.parent, hint="create it first"
            )
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot write {path}", got=getattr(error, "strerror", error)) from error


def sha256(path: str | os.PathLike[str]) -> str:
    """Hash a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
