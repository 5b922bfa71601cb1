"""Devices and arithmetics by the names that options give them."""

from __future__ import annotations

import re

import torch

from hessdiag.errors import InputError, unknown
from hessdiag.linalg import processes

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def resolve(device: str) -> torch.device:
    """Turn ``--device`` into a device.

    Raises:
        InputError: unknown, or CUDA is asked for and not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and processes.local_rank():
        device = f"cuda:{processes.local_rank()}"  # each process of a machine has its own
    kind, _, index = device.partition(":")
    numbered = re.fullmatch("[0-9]{1,4}", index) is not None
    if kind not in ("cpu", "cuda") or (":" in device and not (kind == "cuda" and numbered)):
        raise unknown("device", device, ("auto", "cpu", "cuda", "cuda:0"))
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise InputError(
                "there is no such CUDA device",
                got=f"--device {device}, {count} devices seen",
                hint="use --device cpu; hessdiag doctor shows what is available",
            )
    return torch.device(device)
