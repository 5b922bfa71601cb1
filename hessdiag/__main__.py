"""Entry point: run the command line and turn every outcome into its exit code."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from hessdiag.errors import InputError, is_out_of_memory, printable

INTERRUPTED = 130
FAILED = 2
"""Bad usage, bad input, or any failure; 1 and 3 are verdicts of the gate."""


def main() -> None:
    """Run ``hessdiag``."""
    code: str | int | None = FAILED
    with _persistent_interrupts() as interrupts:
        try:
            from hessdiag.cli.app import app

            app(prog_name="hessdiag")
        except InputError as error:
            from hessdiag.cli.options import as_flags

            _say(f"error: {as_flags(str(error))}")
        except SystemExit as done:  # as typer ends every command
            code = done.code
        except KeyboardInterrupt:
            code = INTERRUPTED
        except Exception as error:
            if interrupts:
                code = INTERRUPTED
            elif is_out_of_memory(error):
                _say(f"error: out of memory\n  got: {(str(error) or repr(error)).splitlines()[0]}")
                _say("  hint: a smaller --batch-size or --basis-size, or one --part at a time")
            else:
                traceback.print_exc()
        if code == INTERRUPTED:
            _say("interrupted")
            # CPython remembers an interrupt that passed through evaluated text, and would end with
            # the signal instead of the code; evaluating text anew makes it forget
            exec("")
    sys.exit(code)


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
