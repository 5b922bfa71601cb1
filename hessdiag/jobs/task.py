"""What engines run: tasks that can be pickled, and go on where they were when run again."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

from hessdiag.errors import InputError

Task = Callable[[], str | None]
"""Does its work, which it leaves in files; returns why it failed, or None."""
Engine = Callable[[Mapping[str, Task], Callable[[], None]], Generator[tuple[str, str | None]]]
"""Runs tasks by name, many at once; gives each one's name and why it failed, as they end.

It calls the second argument now and then while it waits. A task whose process is lost is run once
more. Closing the generator ends all that is under way.
"""
MOST_TRIES = 2


def attempt(task: Task) -> tuple[str | None, Exception | None]:
    """Run a task in a process of its own: why it failed, and an error that is to end all."""
    try:
        return task(), None
    except InputError as error:
        return None, error
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return None, RuntimeError(f"{type(error).__name__}: {error}")


@contextmanager
def uninterrupted() -> Generator[None]:
    """Let interrupts wait for the end of the block; processes started within never see one."""
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGALRM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
