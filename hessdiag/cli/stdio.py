"""Standard streams that carry what they can, and whose faults end no command."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import sys
import unicodedata
from collections.abc import Generator
from typing import Any, TextIO

_SPELT = {
    **{"−": "-", "–": "-", "—": "-", "─": "-", "━": "-", "│": "|", "×": "x", "·": ".", "±": "+-"},
    **{"≤": "<=", "≥": ">=", "≠": "!=", "→": "->", "←": "<-", "‖": "||", "√": "sqrt", "∇": "grad"},
    **{"✓": "ok", "✗": "no", "∞": "inf", "′": "'", "″": "''", "…": "...", "█": "#", "▓": "#"},
    **{"α": "alpha", "β": "beta", "γ": "gamma", "ε": "eps", "η": "eta", "θ": "theta"},
    **{"κ": "kappa", "λ": "lambda", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi"},
}
"""What stands for a sign where the stream has no code for it."""


_COMMAND = re.compile(
    r"(?:^|(?<=[\r\v\f\x1c-\x1e\x85\u2028\u2029]))[^\S\n]*:(?=:)|##\w*(?=\[)", re.MULTILINE
)
"""What CI takes for a command: ``::error::`` at a line's start, ``##[error]`` anywhere in one."""
_UNSEEN = {
    code: f"\\u{code:04x}"
    for codes in (range(0x80, 0xA0), range(0x202A, 0x202F), range(0x2066, 0x206A), (0x61C,))
    for code in (*codes, 0x200E, 0x200F, 0x2028, 0x2029)
}
"""Signs that turn or steer what stands around them; no text of ours has any."""


class Stream:
    """A text stream that spells what it cannot encode, and drops what it cannot write.

    Attributes:
        failure: what went wrong first, or None.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.failure: OSError | ValueError | None = None
        self._line = ""  # as far as it was written
        self._is_closed = stream is None  # from the start, as by >&-
        self._stream = io.StringIO() if stream is None else stream
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors=_ERRORS)  # pyright: ignore

    def write(self, text: str) -> int:
        """Write ``text``, or what of it the stream can carry; no command to CI is in it."""
        begun = len(self._line)
        line = self._line + text
        self._line = line[line.rfind("\n") + 1 :]
        for match in reversed([*_COMMAND.finditer(line)]):
            if match.end() >= begun:
                line = f"{line[: match.end()]}\\{line[match.end() :]}"
        self.command(line[begun:].translate(_UNSEEN))
        return len(text)

    def command(self, text: str) -> None:
        """Write ``text`` as it is: one of our own commands to CI."""
        try:
            self._stream.write(text)
            if self._is_closed and text:
                raise ValueError("it is closed")
        except (OSError, ValueError) as error:
            self.failure = self.failure or error

    def flush(self) -> None:
        """Write what is buffered; after a failure nothing more is, as it would fail at the end."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self.failure = self.failure or error
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # nobody goes past this
            raise AttributeError(name)
        return getattr(self._stream, name)


@contextlib.contextmanager
def lasting() -> Generator[Stream]:
    """Let stdout and stderr last within the block; yields stdout.

    A stream that was closed from the start is there and leads nowhere: else the next file that is
    opened would take its place.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
    own = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = streams = [Stream(stream) for stream in own]
    try:
        yield streams[0]
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = own


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_ascii, error.object[error.start : error.end])), error.end


def _ascii(sign: str) -> str:
    """Spell a sign: λ is lambda, ² is 2, é is e; what nobody knows is its number."""
    parts = (_SPELT.get(part, part) for part in unicodedata.normalize("NFKD", sign))
    plain = "".join(parts).encode("ascii", "ignore").decode()
    return _SPELT.get(sign) or plain or f"\\u{ord(sign):04x}"


_ERRORS = "hessdiag.spell"
codecs.register_error(_ERRORS, _spell)
