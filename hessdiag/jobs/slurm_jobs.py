"""Tasks as jobs of Slurm, submitted by submitit; what they leave is in a folder that all see."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hessdiag.errors import InputError
from hessdiag.jobs.task import MOST_TRIES, Task, attempt, uninterrupted

POLL = 2.0  # seconds between looks at the queue
SETTLING = 10.0  # seconds in which the result of a job that has ended comes to be seen
_ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
}


def parameters(text: str) -> dict[str, Any]:
    """Read ``partition=gpu,time=2:00:00,gpus_per_node=1`` into submitit's parameters.

    ``time`` is in minutes, or [days-]hours:minutes:seconds as Slurm has it.

    Raises:
        InputError: a part that is no name=value.
    """
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            raise InputError(
                "`slurm` is no list of names and values",
                got=repr(part),
                wanted="such as partition=gpu,time=120",
            )
        found[name.replace("-", "_")] = int(value) if value.isdecimal() else value
    if isinstance(time := found.get("time"), str):
        found["time"] = _minutes(time)
    return found


def _minutes(text: str) -> int:
    days, _, clock = text.rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
        leading = bool(days) or len(parts) == 3
        hours, minutes, seconds = [*parts, 0, 0][:3] if leading else [0, *parts, 0][:3]
        return max(1, 1440 * int(days or 0) + 60 * hours + minutes + (seconds > 0))
    except ValueError:
        raise InputError(
            "`slurm` has a time that is none", got=text, wanted="minutes, 2:00:00 or 1-12:00:00"
        ) from None


def run(
    tasks: Mapping[str, Task],
    on_wait: Callable[[], None],
    *,
    given: Mapping[str, Any],
    count: int | None,
    folder: Path,
) -> Generator[tuple[str, str | None]]:
    """Run each task as a job; an :data:`hessdiag.jobs.task.Engine` of a cluster.

    Args:
        tasks: by name.
        on_wait: called now and then.
        given: parameters of ``submitit.SlurmExecutor``.
        count: jobs at once; None for as many as Slurm admits.
        folder: on a file system that all nodes see, for submitit's files and the jobs' logs.

    Raises:
        InputError: there is no submitit or no Slurm, or it refuses; raised by a task, likewise
            RuntimeError for what nobody foresaw in one.
    """
    submit = _submitter(given, count or len(tasks), folder)
    _end_left(folder)
    waiting: dict[str, tuple[Any, float | None]] = {}
    tries = Counter[str]()
    try:
        with uninterrupted():  # a job that is not known would not be cancelled
            jobs = submit([_Resumed(task) for task in tasks.values()])
            waiting |= {name: (job, None) for name, job in zip(tasks, jobs, strict=True)}
        tries.update([*tasks])
        while waiting:
            on_wait()
            states = _states()
            for name, (job, ended_at) in list(waiting.items()):
                failure: str | None
                if _refreshed(job.paths.result_pickle).exists():
                    failure, error = _result(job)
                    if error is not None:
                        raise error
                else:
                    state = None if states is None else states.get(job.job_id, "gone")
                    if state not in {*_ENDED, "gone"}:
                        waiting[name] = job, None
                        continue
                    waiting[name] = job, ended_at or time.monotonic()
                    if ended_at is None or time.monotonic() - ended_at < SETTLING:
                        continue
                    if state != "CANCELLED" and tries[name] < MOST_TRIES:
                        tries[name] += state != "PREEMPTED"
                        with uninterrupted():
                            waiting[name] = submit([_Resumed(tasks[name])])[0], None
                        continue
                    failure = f"its job {job.job_id} was lost: {state}; see {job.paths.stderr}"
                del waiting[name]
                yield name, failure
            if waiting:
                time.sleep(POLL)
    finally:
        if waiting:
            with uninterrupted():
                command = ["scancel", *(job.job_id for job, _ in waiting.values())]
                subprocess.run(command, check=False, capture_output=True)


@dataclass(frozen=True)
class _Resumed:
    """A task as a job: Slurm may stop it for its time or for others, and it goes on later."""

    task: Task

    def __call__(self) -> tuple[str | None, Exception | None]:
        import torch

        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which submitit would let pass
        cores = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
        torch.set_num_threads(min(torch.get_num_threads(), int(cores or 1)))
        return attempt(self.task)

    def checkpoint(self) -> Any:
        """Give submitit what to run when the job comes again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _end_left(folder: Path) -> None:
    """End the jobs of an earlier command that was killed: they own the folders of their runs."""
    mark = "_submitted.pkl"
    known = {path.name.removesuffix(mark) for path in folder.glob(f"*{mark}")}
    cancelled: set[str] = set()
    while states := _states() if known else None:
        left = {job for job in known & states.keys() if states[job] not in _ENDED}
        if not left:
            return
        if new := sorted(left - cancelled):
            subprocess.run(["scancel", *new], check=False, capture_output=True)
            cancelled |= left
        time.sleep(POLL)


def _submitter(
    given: Mapping[str, Any], count: int, folder: Path
) -> Callable[[list[_Resumed]], list[Any]]:
    try:
        import submitit
    except ImportError as error:
        raise InputError(
            "jobs of Slurm need submitit", got="none", hint="pip install 'hessdiag[cluster]'"
        ) from error
    own = {"job_name": "hessdiag", "array_parallelism": count, **given}
    try:
        executor = submitit.SlurmExecutor(folder=folder.resolve())
        executor.update_parameters(**own)
    except ValueError as error:
        what = str(error).replace("\n  - ", "; ").replace("\n", "; ")
        raise InputError("`slurm` has a parameter that submitit does not know", got=what) from error
    except RuntimeError as error:
        raise InputError("there is no Slurm here", got="no srun on the PATH") from error

    is_new = not folder.exists()

    def submit(tasks: list[_Resumed]) -> list[Any]:
        nonlocal is_new
        try:
            with redirect_stderr(io.StringIO()), executor.batch():  # the error has its text
                jobs = [executor.submit(task) for task in tasks]
        except (RuntimeError, subprocess.SubprocessError) as error:
            if is_new:
                shutil.rmtree(folder)
            raise InputError("Slurm does not take the jobs", got=str(error).strip()) from error
        is_new = False
        return jobs

    return submit


def _result(job: Any) -> tuple[str | None, Exception | None]:
    error = job.exception()
    if error is not None:  # submitit's own: Slurm stopped the job more often than it may
        return str(error).strip().splitlines()[-1], None
    return job.result()


def _states() -> dict[str, str] | None:
    """Ask for the states of the user's jobs by their names; None where Slurm does not answer."""
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T", "--me"]
    with suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        return dict(line.split()[:2] for line in told.stdout.splitlines())
    return None


def _refreshed(path: Path) -> Path:
    """Let a network's file system look at the folder anew."""
    with suppress(OSError):
        os.listdir(path.parent)
    return path
