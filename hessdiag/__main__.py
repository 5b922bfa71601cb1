"""Entry point: run the command line and turn every outcome into its exit code."""

from __future__ import annotations

import sys
import traceback

from hessdiag.errors import InputError

INTERRUPTED = 130
FAILED = 2
"""Bad usage, bad input, or any failure; 1 and 3 are verdicts of the gate."""


def main() -> None:
    """Run ``hessdiag``."""
    try:
        from hessdiag.cli.app import app

        app(prog_name="hessdiag")
    except InputError as error:
        _say(f"error: {error}")
        sys.exit(FAILED)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(INTERRUPTED)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            traceback.print_exc()
            sys.exit(FAILED)
        _say(f"error: out of memory\n  got: {str(error).splitlines()[0]}")
        _say("  hint: try a smaller --batch-size, a smaller --basis-size, or one --part at a time")
        sys.exit(FAILED)
    except Exception:
        traceback.print_exc()
        sys.exit(FAILED)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text


def _say(message: str) -> None:
    """Print to stderr, with control characters from files and options made visible."""
    safe = "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in message)
    print(safe, file=sys.stderr)


if __name__ == "__main__":
    main()
