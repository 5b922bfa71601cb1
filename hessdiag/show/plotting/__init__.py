"""What needs matplotlib, which takes long to import, as it comes.

No setting of a notebook or of a working directory reaches a plot.
"""

from __future__ import annotations

import os
import sys


def _settle() -> None:
    """Import matplotlib without what it would read here; what a program imported before, it keeps.

    It obeys a file ``matplotlibrc`` of the working directory, which may hold anything, before all
    others, and fails on a backend, as notebooks set, that is not installed.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    try:
        here = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))
    except OSError:  # it was removed, or cannot be listed: then nothing is read there
        here = None
    try:
        if here is not None:
            os.chdir(os.path.dirname(__file__))
        import matplotlib as mpl

        mpl.rcdefaults()
    finally:
        if here is not None:
            os.fchdir(here)
            os.close(here)
        if backend is None:
            del os.environ["MPLBACKEND"]
        else:
            os.environ["MPLBACKEND"] = backend


_settle()
