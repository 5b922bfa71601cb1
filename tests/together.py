"""Run a function of a test in several processes that work together, as under torchrun."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.spawn import spawn

from hessdiag.linalg import processes


def together(function: Callable[..., None], count: int, *args: Any) -> None:
    """Call ``function(*args)`` in each of ``count`` processes, joined; all must end well."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    spawn(_member, (function, count, port, args), nprocs=count)


def _member(
    rank: int, function: Callable[..., None], count: int, port: int, args: tuple[Any, ...]
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    with processes.joined(torch.device("cpu")):
        function(*args)
