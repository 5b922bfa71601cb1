"""Devices and arithmetics by the names that options give them."""

from __future__ import annotations

import os
import re

import torch

from hessdiag.errors import InputError, unknown
from hessdiag.linalg import processes

KINDS = ("cpu", "cuda")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def resolve(device: str) -> torch.device:
    """Turn ``--device`` into a device.

    Of the processes that torchrun starts on a machine, each has its own GPU.

    Raises:
        InputError: unknown, not there, one GPU for several processes, or one without float64.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{processes.local_rank()}"
    kind, _, index = device.partition(":")
    check(kind)
    numbered = re.fullmatch("[0-9]{1,4}", index) is not None
    if kind not in KINDS or (":" in device and not (kind == "cuda" and numbered)):
        raise unknown("device", device, ("auto", "cpu", "cuda", "cuda:0"))
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise InputError(
                "there is no such CUDA device",
                got=f"--device {device}, {count} devices seen",
                hint="use --device cpu; hessdiag doctor shows what is available",
            )
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
        if neighbours > 1 and index != str(processes.local_rank()):
            raise InputError(
                "the processes of a machine cannot share one GPU",
                got=f"--device {device} for {neighbours} processes",
                hint="--device cuda: each takes its own",
            )
    return torch.device(device)


def check(kind: str) -> None:
    """Refuse a kind of device that lacks what is needed.

    Raises:
        InputError: so it does.
    """
    if kind == "mps":
        raise InputError(
            "hessdiag does not compute on Apple's GPUs",
            got="mps",
            wanted=" or ".join(KINDS),
            hint="MPS has no float64, in which sums, coefficients and checks are computed",
        )
