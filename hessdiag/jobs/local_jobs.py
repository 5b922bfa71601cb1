"""Tasks in processes of this machine, each with its own share of the cores and its own GPU."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from hessdiag.jobs.task import MOST_TRIES, Task, attempt, uninterrupted

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


def _start(slot: int, count: int, folder: Path) -> Worker:
    """Start a process that an interrupt of the terminal does not reach: this one ends it."""
    fresh = get_context("spawn")
    here, there = fresh.Pipe()
    given = there, _log(folder, slot)
    process = fresh.Process(target=_serve, args=given, name=f"hessdiag job {slot}")
    share = share_of(slot, count)
    own = {name: os.environ.get(name) for name in share}
    with uninterrupted():
        try:
            os.environ |= share
            process.start()
        finally:
            for name, value in own.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
            there.close()
    return Worker(slot, process, here)


def share_of(slot: int, count: int) -> dict[str, str]:
    """Say in the environment which threads and which GPU a process takes, as torchrun does."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = min(torch.get_num_threads(), max(1, (cores or 1) // count))
    gpus = torch.cuda.device_count()
    return {"OMP_NUM_THREADS": str(threads), "LOCAL_RANK": str(slot % gpus if gpus else 0)}


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


def _serve(line: Any, log: Path) -> None:
    """Run the tasks that come by ``line`` until it closes, or the process that gives them ends."""

    def terminate(*_: Any) -> None:
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
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
