"""Weights on disk: reading them in any common form without running code, fitting, and saving.

A form of checkpoint is one file in ``formats``; its neighbours need not know of it.
"""

from hessdiag.nets.checkpoints.checkpoint import Checkpoint, Choice
from hessdiag.nets.checkpoints.fitting import check_fit, fit, load_into
from hessdiag.nets.checkpoints.reading import read
from hessdiag.nets.checkpoints.recognition import recognise
from hessdiag.nets.checkpoints.saving import save

__all__ = ["Checkpoint", "Choice", "check_fit", "fit", "load_into", "read", "recognise", "save"]
