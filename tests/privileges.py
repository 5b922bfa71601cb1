"""Permissions hold for root as well, so that no test of them is skipped where CI is root."""

import ctypes
import os
from collections.abc import Generator
from contextlib import contextmanager

_VERSION = 0x20080522  # of the kernel's interface: two words of 32 capabilities for each set
_OVERRIDES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@contextmanager
def ordinary() -> Generator[None]:
    """Obey the permissions of files within the block, as an ordinary user must."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    held = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice
    if os.geteuid() or libc.capget(header, held):
        yield
        return
    dropped = (ctypes.c_uint32 * 6)(*held)
    dropped[0] &= ~_OVERRIDES
    assert libc.capset(header, dropped) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0
