"""What all commands do with the terminal: results to stdout, talk to stderr."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager

from rich import progress as columns
from rich.console import Console

from hessdiag.errors import printable
from hessdiag.progress import Progress


def out() -> Console:
    """Console on stdout."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def err() -> Console:
    """Console on stderr."""
    return Console(stderr=True, highlight=False)


def note(text: str) -> None:
    """Say what a user should know, though nothing is wrong."""
    err().print(printable(f"note: {text}"), markup=False, soft_wrap=True)


@contextmanager
def progress(title: str, *, quiet: bool) -> Generator[Bar]:
    """Show a progress bar with the time left while the block runs; elsewhere, its milestones."""
    console = err()
    display = columns.Progress(
        columns.TextColumn("{task.description}"),
        columns.BarColumn(),
        columns.TextColumn("{task.percentage:>3.0f} %"),
        columns.TimeElapsedColumn(),
        columns.TextColumn("left"),
        columns.TimeRemainingColumn(),
        columns.TextColumn("{task.fields[detail]}"),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    with display:
        yield Bar(display, title, logs=not quiet and not console.is_terminal)


class Bar:
    """One line of progress."""

    def __init__(self, display: columns.Progress, title: str, *, logs: bool) -> None:
        self._display, self._logs = display, logs
        self._task = display.add_task(title, total=None, detail="reading")

    def show(self, now: Progress) -> None:
        """Show where a computation stands."""
        detail = now.doing
        self._display.update(self._task, completed=now.done, total=now.expected, detail=detail)

    def milestone(self, text: str) -> None:
        """Say a line where no bar is seen, as in a log."""
        if self._logs:
            self._display.console.print(text, markup=False)
