"""Faults at single file operations: an error of the system, a signal, or the end of the process."""

from __future__ import annotations

import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hessdiag.__main__ import main

OPERATIONS = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.listdir"}
"""What Python announces of itself; the calls below it does not."""
ENDS = ("EIO", "ENOSPC", "EINTR", "SIGKILL", "SIGINT")


@dataclass
class Outcome:
    """How a command ended: its exit code, or minus the signal; what it said; operations counted."""

    code: int
    err: str
    count: int


def run(place: Path, *args: Any, at: int = 0, end: str = "") -> Outcome:
    """Run a command in a process of its own; the operation ``at`` below ``place`` fails, from 1."""
    talk, counter = place / "talk", place / "count"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: there are none in the way
        pid = os.fork()
    if pid == 0:
        _run_and_leave(place, [str(arg) for arg in args], talk, counter, at, end)
    _, status = os.waitpid(pid, 0)
    count = int(counter.read_text()) if counter.exists() else 0
    return Outcome(os.waitstatus_to_exitcode(status), talk.read_text(), count)


def _run_and_leave(
    place: Path, args: list[str], talk: Path, counter: Path, at: int, end: str
) -> None:
    code = 99
    try:
        os.chdir(place)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdout = sys.stderr = talk.open("w")
        sys.argv = ["hessdiag", *args]
        faults = _Faults(place, at, end)
        try:
            main()
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else 98
        except BaseException as error:
            print("Traceback", repr(error), file=talk.open("a"))
        faults.at = -1
        counter.write_text(str(faults.count))
    finally:
        sys.stdout.flush()
        os._exit(code)


class _Faults:
    """Counts the file operations below a folder, and lets one of them fail."""

    def __init__(self, place: Path, at: int, end: str) -> None:
        self.place, self.at, self.end, self.count = str(place), at, end, 0
        sys.addaudithook(self.audit)
        for owner, names in ((os, ("fsync", "pwrite")), (Path, ("write_bytes", "write_text"))):
            for name in names:
                setattr(owner, name, self.around(getattr(owner, name)))

    def audit(self, event: str, args: Sequence[Any]) -> None:
        if event in OPERATIONS and self.at >= 0 and isinstance(args[0], str | os.PathLike):
            path = os.path.join(os.getcwd(), os.fspath(args[0]))
            if path.startswith(self.place) and not path.endswith(("/talk", "/count")):
                self.strike()

    def around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.strike()
            result = real(*args, **options)
            self.strike()
            return result

        return call

    def strike(self) -> None:
        if self.at < 0:
            return
        self.count += 1
        if self.count == self.at and self.end.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, self.end))
        elif self.count == self.at:
            number = getattr(errno, self.end)
            raise OSError(number, os.strerror(number))
