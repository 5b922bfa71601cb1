"""Names of the losses: each is a file of ``losses/named``, and nothing else knows of it."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "losses" / "named"
NAMES = tuple(sorted(path.stem.replace("_", "-") for path in _FOLDER.glob("[a-z]*.py")))
