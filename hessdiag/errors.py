"""The one kind of error a user sees: what is wrong, what was got, what was wanted, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MOST = 1000
"""Characters told of what was got, which may be a whole file, or five thousand digits."""


class InputError(Exception):
    """Bad input or bad circumstances that the user can mend; the command line exits with 2.

    Args:
        what: the thing that is wrong, in one clause.
        got: what was found there.
        wanted: what would have been right.
        hint: what to do about it.
    """

    def __init__(
        self, what: str, *, got: object = None, wanted: object = None, hint: str | None = None
    ) -> None:
        self.what, self.got, self.wanted, self.hint = what, got, wanted, hint
        super().__init__(what)

    def __str__(self) -> str:
        parts = [self.what]  # whose own lines stand deeper: none begins with what others wrote
        if self.got is not None:
            got = str(self.got)
            parts.append(f"got: {got if len(got) <= _MOST else got[:_MOST] + '…'}")
        if self.wanted is not None:
            parts.append(f"wanted: {self.wanted}")
        if self.hint is not None:
            parts.append(f"hint: {self.hint}")
        return "\n  ".join(part.replace("\n", "\n    ") for part in parts)


class NotFinite(InputError):
    """A loss, a gradient or a product that is NaN or infinite."""


class Verdict(Exception):
    """The end of a command whose exit code is its answer, whatever becomes of the streams.

    Args:
        code: the exit code.
    """

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(code)


def unknown(kind: str, got: str, choices: Iterable[str], *, hint: str | None = None) -> InputError:
    """Build the error for a name that is not among ``choices``, suggesting the nearest."""
    known = list(choices)
    near = difflib.get_close_matches(got.lower(), [name.lower() for name in known], n=2, cutoff=0.5)
    suggestion = f"did you mean {' or '.join(near)}?" if near else None
    return InputError(
        f"unknown {kind}",
        got=repr(got),
        wanted=", ".join(known),
        hint=" ".join(text for text in (suggestion, hint) if text) or None,
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a failed allocation, on CPU or GPU, from other errors."""
    text = str(error)
    signs = "out of memory", "allocate memory", "STATUS_ALLOC_FAILED"  # cuBLAS's and cuDNN's
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def printable(text: str) -> str:
    """Make control characters visible, so that no file's name or content steers the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
