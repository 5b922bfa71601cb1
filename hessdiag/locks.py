"""One owner of a folder at a time, for as long as its process lives."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from hessdiag.errors import InputError

NAME = ".hessdiag-lock"


@contextmanager
def owning(folder: Path) -> Generator[None]:
    """Own ``folder`` within the block; the kernel ends it with the process, however that ends.

    On file systems that cannot lock, nobody owns anything.

    Raises:
        InputError: another process owns it, which is named; or it cannot be written.
    """
    path = folder / NAME
    try:
        handle = _lock(path)
    except BlockingIOError:
        raise InputError(
            "another process works in the folder",
            got=f"{folder}, in use by {_holder(path)}",
            hint="wait for its end, or choose another folder",
        ) from None
    except OSError as error:
        raise InputError(f"cannot lock the folder {folder}", got=error.strerror) from error
    _held.add(handle)
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        with suppress(OSError):  # a full disk; then it has no name
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(holder).encode(), 0)
        yield
    finally:
        _held.discard(handle)
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _lock(path: Path) -> int:
    """Open and lock the file, and make sure that nobody has removed it in between."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(path, flags, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:  # a file system without locks
                return handle
            own = os.fstat(handle)
            if not stat.S_ISREG(own.st_mode):
                raise OSError(0, f"{path.name} is no file")
            with suppress(FileNotFoundError):
                if os.path.samestat(own, os.lstat(path)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _holder(path: Path) -> str:
    try:
        raw: Any = json.loads(path.read_bytes()[:1000])
        return f"process {raw['pid']:d} on {raw['host']:.99} since {raw['since']:.99}"
    except (OSError, ValueError, TypeError, KeyError):
        return "a process that does not say which it is"


def _now() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")


_held: set[int] = set()


def _let_go() -> None:
    """Leave a forked process, as one that decodes images, no share of the locks."""
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
