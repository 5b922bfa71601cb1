"""Tasks in processes of this machine, each with its own share of the cores and its own GPU.

On Linux they are forked from one that has loaded torch and what the tasks need, and has done
nothing else: neither threads nor a GPU are at work in it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, forkserver, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from hessdiag.jobs.task import MOST_TRIES, Task, attempt, uninterrupted

_FRESH: Any = get_context("forkserver" if sys.platform == "linux" else "spawn")
_loaded: dict[str, None] = {}
POLL = 0.5  # seconds between looks at what is under way
GRACE = 10.0  # seconds in which a process is to end


@dataclass
class Worker:
    """A process that runs one task after another."""

    slot: int
    process: BaseProcess
    line: Any  # a Connection, or a PipeConnection
    doing: str = ""


def run(
    tasks: Mapping[str, Task], on_wait: Callable[[], None], *, count: int, folder: Path
) -> Generator[tuple[str, str | None]]:
    """Run tasks in ``count`` processes; an :data:`hessdiag.jobs.task.Engine` of this machine.

    The processes share the cores, and each takes the GPU of its number where ``cuda`` is meant.
    They end with this one, whatever becomes of it.

    Args:
        tasks: by name.
        on_wait: called now and then.
        count: processes, at least one.
        folder: for what tasks print, one file a process.

    Raises:
        InputError: raised by a task, likewise RuntimeError for what nobody foresaw in one.
    """
    waiting, tries = deque(tasks), Counter[str]()
    count = min(count, len(tasks))
    workers: list[Worker] = []
    folder.mkdir(exist_ok=True)
    prepare(count, "torch")
    try:
        workers += (_start(slot, count, folder) for slot in range(count))
        while waiting or any(worker.doing for worker in workers):
            for worker in workers:
                if not worker.doing and waiting:
                    worker.doing = waiting.popleft()
                    tries[worker.doing] += 1
                    with suppress(OSError):  # lost, which is seen below
                        worker.line.send(tasks[worker.doing])
            busy = [worker.line for worker in workers if worker.doing]
            ready = connection.wait(busy, POLL)
            on_wait()
            for worker in [worker for worker in workers if worker.line in ready]:
                name, worker.doing = worker.doing, ""
                try:
                    failure, error = worker.line.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    end = _ended(worker)
                    workers.append(_start(worker.slot, count, folder))
                    if tries[name] < MOST_TRIES:
                        waiting.appendleft(name)
                        continue
                    failure, error = f"its process was lost {MOST_TRIES} times: {end}", None
                if error is not None:
                    raise error
                yield name, failure
    finally:
        with uninterrupted():
            for worker in workers:
                (worker.process.terminate if worker.doing else worker.line.close)()
            for worker in workers:
                _ended(worker)
                _log(folder, worker.slot, remove_empty=True)
            with suppress(OSError):  # not empty
                folder.rmdir()


def prepare(count: int, *modules: str) -> None:
    """Begin to load what tasks need, in a process of its own, while this one loads what it needs.

    Args:
        count: processes to come, which share the cores.
        modules: names of what to load.
    """
    if _FRESH.get_start_method() != "forkserver":
        return
    given = os.environ.get("OMP_NUM_THREADS")
    with uninterrupted():
        try:
            if given is None:  # libraries read it as they are loaded
                os.environ["OMP_NUM_THREADS"] = str(max(1, _cores() // count))
            _loaded.update(dict.fromkeys(modules))
            _FRESH.set_forkserver_preload([*_loaded])
            forkserver.ensure_running()
        finally:
            if given is None:
                del os.environ["OMP_NUM_THREADS"]


def _start(slot: int, count: int, folder: Path) -> Worker:
    """Start a process that an interrupt of the terminal does not reach: this one ends it."""
    here, there = _FRESH.Pipe()
    given = there, _log(folder, slot), {**os.environ, **share_of(slot, count)}
    process = _FRESH.Process(target=_serve, args=given, name=f"hessdiag job {slot}")
    with uninterrupted():
        try:
            process.start()
        finally:
            there.close()
    return Worker(slot, process, here)


def share_of(slot: int, count: int) -> dict[str, str]:
    """Say in the environment which threads and which GPU a process takes, as torchrun does."""
    import torch

    threads = min(torch.get_num_threads(), max(1, _cores() // count))
    gpus = torch.cuda.device_count()
    return {"OMP_NUM_THREADS": str(threads), "LOCAL_RANK": str(slot % gpus if gpus else 0)}


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ended(worker: Worker) -> str:
    """Wait until a process has ended; how it did."""
    worker.line.close()
    worker.process.join(GRACE)
    if worker.process.exitcode is None:
        worker.process.kill()
        worker.process.join()
    code = worker.process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _log(folder: Path, slot: int, *, remove_empty: bool = False) -> Path:
    path = folder / f"process-{slot}.log"
    if remove_empty and path.exists() and not path.stat().st_size:
        path.unlink()
    return path


class _Terminated(BaseException):
    """The process is to end."""


def _serve(line: Any, log: Path, environment: Mapping[str, str]) -> None:
    """Run the tasks that come by ``line`` until it closes, or the process that gives them ends."""

    def terminate(*_: Any) -> None:
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        os.environ |= environment
        import torch

        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
        while True:
            task: Task = line.recv()
            line.send(attempt(task))
    except (_Terminated, EOFError, OSError):
        sys.exit(0)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(GRACE)
        os._exit(1)
