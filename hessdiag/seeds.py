"""One place for randomness: independent, named streams from one user-visible seed."""

from __future__ import annotations

import hashlib

LEAST, MOST = -(2**63), 2**63 - 1
"""That the user's seed can be."""


def stream(seed: int, *names: str | int) -> int:
    """Derive the 63-bit seed of the stream ``names`` from the user's ``seed``.

    Streams with different names are independent for all practical purposes, so two runs that
    differ only in, say, the regulariser still see the same batches.
    """
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
