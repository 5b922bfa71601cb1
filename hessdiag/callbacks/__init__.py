"""Curvature measured while a network is trained, in whatever loop that is.

:class:`hessdiag.Monitor` serves any loop. Lightning and transformers are imported with the callback
of theirs, ``hessdiag.callbacks.LightningMonitor`` and ``TrainerMonitor``, and not before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hessdiag.callbacks.lightning_monitor import LightningMonitor
    from hessdiag.callbacks.trainer_monitor import TrainerMonitor

_HOMES = {"LightningMonitor": ("lightning", "lightning"), "TrainerMonitor": ("trainer", "hf")}

__all__ = ["LightningMonitor", "TrainerMonitor"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hessdiag.callbacks' has no attribute {name!r}")
    home, extra = _HOMES[name]
    try:
        return getattr(importlib.import_module(f"hessdiag.callbacks.{home}_monitor"), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"{name} needs {error.name}: pip install hessdiag[{extra}]") from error
