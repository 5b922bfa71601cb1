"""Entry point: run the command line and turn every outcome into its exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType, TracebackType

from hessdiag.cli import stdio
from hessdiag.errors import InputError, Verdict, is_out_of_memory, printable

INTERRUPTED = 130
FAILED = 2
"""Bad usage, bad input, or any failure; 1 and 3 are verdicts of the gate."""


def main() -> None:
    """Run ``hessdiag``."""
    code, verdict = FAILED, None
    with stdio.lasting() as out, _no_warnings(), _persistent_interrupts() as interrupts:
        try:
            from hessdiag.cli.app import app

            try:
                app(prog_name="hessdiag")
            finally:
                sys.excepthook = _end  # typer has one of its own
        except InputError as error:
            from hessdiag.cli.options import as_flags

            _say(f"error: {as_flags(str(error))}")
        except Verdict as reached:
            code = verdict = reached.code
        except SystemExit as done:  # as typer ends every command: done, bad usage or interrupted
            code = done.code or 0 if done.code in (None, 0, INTERRUPTED) else FAILED
        except KeyboardInterrupt:
            code = INTERRUPTED
        except Exception as error:
            code = INTERRUPTED if interrupts else FAILED
            if not interrupts:
                _explain(error)
        if code == INTERRUPTED:
            _say("interrupted")
            # CPython remembers an interrupt that passed through evaluated text, and would end with
            # the signal instead of the code; evaluating text anew makes it forget
            exec("")
        out.flush()
        if out.failure is not None and verdict is None and code == 0:
            code = FAILED
            _say(f"error: the output cannot be written\n  got: {out.failure}")
    sys.exit(code)


def _explain(error: BaseException) -> None:
    """Say what nobody foresaw in a line, and keep its trace in a file."""
    said = (str(error).strip() or repr(error)).splitlines()[0][:200]
    if is_out_of_memory(error):
        _say(f"error: out of memory\n  got: {said}")
        _say("  hint: a smaller --batch-size or --basis-size, or one --part at a time")
        return
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="hessdiag-", suffix=".txt", delete=False, errors="backslashreplace"
        ) as file:
            traceback.print_exception(error, file=file)
        where = f"its trace is in {file.name}"
    except OSError:
        where = "its trace cannot be written"
    _say(f"error: unforeseen, {where}: {type(error).__name__}: {said}")


def _end(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    """Take the place of ``sys.excepthook``, as Python ends with 1 after it, which is a verdict."""
    try:
        with stdio.lasting():
            if not isinstance(error, KeyboardInterrupt):
                _explain(error)
    finally:
        os._exit(INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED)


@contextmanager
def _no_warnings() -> Generator[None]:
    """Keep libraries from talking to users: what matters to them, we say ourselves."""
    silent = logging.NullHandler()
    logging.getLogger().addHandler(silent)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.showwarning = lambda *_, **__: None
            yield
    finally:
        logging.getLogger().removeHandler(silent)


@contextmanager
def _persistent_interrupts() -> Generator[list[int]]:
    """Repeat an interrupt every second until the block ends; yields those that came.

    An import, a finaliser or a callback from C may swallow a KeyboardInterrupt, or turn it into
    another exception, and a long computation would go on.
    """
    interrupts: list[int] = []
    timer = getattr(signal, "setitimer", None)
    if timer is None or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupts
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        timer(signal.ITIMER_REAL, 1.0)
        signal.default_int_handler(number, frame)

    previous = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield interrupts
    finally:
        timer(signal.ITIMER_REAL, 0.0)
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_IGN if interrupts else handler)


_SIGNALS = (signal.SIGINT, signal.SIGALRM) if hasattr(signal, "SIGALRM") else ()


def _say(message: str) -> None:
    print(printable(message), file=sys.stderr)


if __name__ == "__main__":
    main()
