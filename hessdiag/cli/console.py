"""What all commands do with the terminal: results to stdout, talk to stderr."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hessdiag.errors import printable

if TYPE_CHECKING:
    from hessdiag.spectra.spectrum_run import Progress as Passes


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
    display = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    with display:
        yield Bar(display, title, logs=not quiet and not console.is_terminal)


class Bar:
    """One line of progress."""

    def __init__(self, display: Progress, title: str, *, logs: bool) -> None:
        self._display, self._logs = display, logs
        self._task = display.add_task(title, total=None, detail="reading")

    def update(self, done: float, expected: float, detail: str = "") -> None:
        """Show ``done`` of ``expected`` and a word on what is under way."""
        self._display.update(self._task, completed=done, total=expected, detail=detail)

    def passes(self, state: Passes) -> None:
        """Show where a computation in passes over the data stands."""
        self.update(state.passes, state.expected, f"pass {int(state.passes) + 1}")

    def milestone(self, text: str) -> None:
        """Say a line where no bar is seen, as in a log."""
        if self._logs:
            self._display.console.print(text, markup=False)
