"""One place for writing files: beside the target, then renamed, so nothing is ever half-written."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from hessdiag.errors import InputError

LARGEST = 64 << 20
"""Bytes of a text that is read; a report on every layer of a large network takes a few million."""

_TEMPORARY = re.compile(r"\.hessdiag-[a-z0-9_]{8}")


@contextmanager
def replacing(
    path: str | os.PathLike[str], *, keep: str | os.PathLike[str] | None = None
) -> Generator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, else it vanishes.

    At every instant ``path`` is the old file or the new one, whole and on the disk. A link stays a
    link, and the file's mode is kept.

    Args:
        path: of the file.
        keep: another name in its folder, under which the file that is replaced stays.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    check_writable(path)
    handle, temporary = None, None
    try:
        target = Path(path).resolve()  # a link stays a link
        temporary, mode = _spare(target), _mode(target)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        handle = os.open(temporary, flags, 0o666 if mode is None else 0o600)
        with suppress(OSError):  # as long as it is locked, no other process takes it for a leftover
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        if mode is not None:
            os.fchmod(handle, mode)
        os.fsync(handle)
        if keep is not None:
            _link(target, Path(keep))
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}", got=error.strerror or error) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        if handle is not None:
            with suppress(OSError):
                os.close(handle)


def _mode(target: Path) -> int | None:
    with suppress(FileNotFoundError):
        return stat.S_IMODE(target.stat().st_mode)
    return None


def _spare(target: Path) -> Path:
    """Think of a name beside ``target`` that ``remove_leftovers`` knows."""
    return target.with_name(f".hessdiag-{secrets.token_hex(4)}")


def _link(target: Path, name: Path) -> None:
    """Give the file a second name, in one step, and leave it the first."""
    spare = _spare(target)
    try:
        try:
            os.link(target, spare)
        except FileNotFoundError:
            return
        except OSError:  # a file system without hard links
            shutil.copyfile(target, spare)
            with spare.open("rb") as file:
                os.fsync(file.fileno())
        spare.replace(name)
    finally:
        spare.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Wait until a new name is on the disk, where folders can be opened for that."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed; those of living ones are locked."""
    with suppress(OSError):
        names = [name for name in os.listdir(folder) if _TEMPORARY.fullmatch(name)]
        for name in names:
            with suppress(OSError):
                handle = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if stat.S_ISREG(os.fstat(handle).st_mode):
                        os.unlink(folder / name)
                finally:
                    os.close(handle)


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
        with open(path, "a", encoding="utf-8", opener=_at_once) as file:
            file.write(text)
    except (OSError, ValueError) as error:
        got = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {path}", got=got) from error


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK, 0o666)  # a pipe that nobody reads is refused


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


def is_there(path: str | os.PathLike[str]) -> bool:
    """Tell whether there is anything of that name; unlike os.path, not by a disk that fails.

    Raises:
        OSError: that cannot be told.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def sha256(path: str | os.PathLike[str]) -> str:
    """Hash a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
