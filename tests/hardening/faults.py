"""One fault at one file operation of a command, in a forked child of a process that is warm.

The process has ``faults.c`` preloaded, which counts file operations and lets one fail, or tells of
all and stops at each.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import gc
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import hessdiag
from hessdiag.__main__ import main
from hessdiag.training import recipes, state

ENDS: dict[str, int] = {
    **{name: getattr(errno, name) for name in ("EIO", "ENOSPC", "EINTR")},
    **{name: -getattr(signal, name) for name in ("SIGKILL", "SIGINT")},
}


@dataclass
class Outcome:
    """How a command ended.

    Attributes:
        code: its exit code, or minus the signal.
        talk: what it said.
        where: the operation that failed.
    """

    code: int
    talk: str
    where: str


@dataclass(frozen=True)
class Operation:
    """One at a file.

    Attributes:
        kind: r reads, w takes space, c changes something else.
        site: the function of C, the file's name without numbers, and the line of ours.
    """

    kind: str
    site: str


def build(place: Path) -> Path:
    """Compile what is to be preloaded."""
    library = place / "faults.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def warm(place: Path, *commands: Sequence[str]) -> None:
    """Run commands in ``place``, so that this process has imported all that its children need.

    The demo's network becomes a tiny one, and no curve is drawn: both take more time than all else.
    """
    torch.set_num_threads(1)
    small = replace(recipes.RECIPES["digits-wrn10-1"], model="mlp-4", epochs=2, batch_size=1024)
    recipes.RECIPES["digits-wrn10-1"] = small
    Figure.savefig = lambda _, path, **__: Path(path).write_text("<drawn>")  # pyright: ignore
    here = Path.cwd()
    os.chdir(place)
    for args in commands:
        sys.argv = ["hessdiag", *args]
        with suppress(SystemExit):
            main()
    os.chdir(here)
    gc.collect()
    gc.freeze()  # so that children share it


def call(place: Path, args: Sequence[str], at: int = 0, end: str = "EIO") -> Outcome:
    """Run a command in a child, in ``place / "work"``; the operation ``at`` below it fails."""
    return ended(place, started(place, args, at, end))


def watched(
    place: Path, args: Sequence[str], look: Callable[[], None]
) -> tuple[Outcome, list[Operation]]:
    """Run a command undisturbed; ``look`` before each operation that changes anything."""
    pid = started(place, args, tell=True)
    while _is_stopped(pid):
        look()
        os.kill(pid, signal.SIGCONT)
    outcome = ended(place, pid)
    told = re.findall(
        r"^([rwc]) (\S+ ).*?([^/\n]*)\nStack.*\n((?:  .*\n)*)", (place / "told").read_text(), re.M
    )
    return outcome, [
        Operation(kind, function + re.sub(r"\.hessdiag-\w{8}|\d+", "#", name) + _ours(stack))
        for kind, function, name, stack in told
    ]


def _ours(stack: str) -> str:
    """Find the innermost frame of the package."""
    package = str(Path(hessdiag.__file__).parent)
    return next((frame for frame in stack.splitlines() if package in frame), "")


def started(
    place: Path,
    args: Sequence[str],
    at: int = 0,
    end: str = "EIO",
    gate: int | None = None,
    tell: bool = False,
) -> int:
    """Fork a child that runs a command, once ``gate`` is shut, if there is one."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.chdir(place / "work")
        os.environ["GITHUB_STEP_SUMMARY"] = str(place / "work" / "summary.md")
        sys.stdout = sys.stderr = (place / "talk").open("w", buffering=1)
        sys.argv = ["hessdiag", *args]
        _note_states(place / "saved")
        library = ctypes.CDLL(None)
        library.disarm.restype = ctypes.c_char_p
        work = os.fsencode(place / "work")
        if gate is not None:
            os.read(gate, 1)
        elif tell:
            told = (place / "told").open("w")
            faulthandler.register(signal.SIGUSR1, told, all_threads=False)
            library.arm(work, 0, told.fileno())
        elif at:
            library.arm(work, at, ENDS[end])
        try:
            main()
        except SystemExit as done:
            code = int(done.code or 0)
        except BaseException as error:
            print("Traceback", repr(error), file=sys.stderr)
        (place / "seen").write_bytes(library.disarm())
    finally:
        os._exit(code)


def ended(place: Path, pid: int) -> Outcome:
    """Wait for a child and tell how it ended."""
    _, status = os.waitpid(pid, 0)
    seen = place / "seen"
    where = seen.read_text() if seen.exists() else ""
    seen.unlink(missing_ok=True)
    return Outcome(os.waitstatus_to_exitcode(status), (place / "talk").read_text(), where)


def _is_stopped(pid: int) -> bool:
    """Wait until a child stops, or ends, which stays to be waited for."""
    change = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WSTOPPED)
    stopped = change is not None and change.si_code == os.CLD_STOPPED
    if stopped:
        os.waitid(os.P_PID, pid, os.WSTOPPED)
    return stopped


def _note_states(path: Path) -> None:
    """Note, out of reach of any fault, which states were written."""
    real = state.save

    def save(place: Path, payload: dict[str, Any]) -> None:
        real(place, payload)
        with path.open("a") as file:
            file.write(f"{place} {payload['step']}\n")

    state.save = save
