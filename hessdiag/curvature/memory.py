"""How much memory a computation needs, measured on the network itself, and how much there is."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from hessdiag.curvature.as_called import are_apart
from hessdiag.curvature.kept import Kept
from hessdiag.curvature.kernels import exact_kernels
from hessdiag.curvature.linearisation import Linearisation
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.errors import is_out_of_memory
from hessdiag.linalg import processes
from hessdiag.losses.output_loss import Targets

_ROOT = Path("/")
_T = TypeVar("_T")
_GRAPH_BUDGET = {"cpu": 1 << 30, "cuda": 8 << 30}  # bytes of one microbatch's linearisation
_LARGEST_MICROBATCH = 1024
_WORKING_FACTOR = 1.5  # saved tensors plus the buffers of a backward pass through them


def linearisation_bytes(risk: EmpiricalRisk, x: Any, y: Tensor | Targets) -> int:
    """Measure the memory that the linearisation of one microbatch holds, without θ itself.

    Counts the storages that autograd saves, each once, and the activations' derivatives, times an
    allowance for working buffers.
    Cost: one gradient on that microbatch.
    """
    held: dict[int, int] = {}
    weights = {tensor.untyped_storage().data_ptr() for tensor in risk.parameters.values()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    if risk.sharding is not None:
        hooks = risk.sharding.gathered.again(pack)
    with exact_kernels(), hooks:
        local = Linearisation(risk, x, y)
    return int(_WORKING_FACTOR * (sum(held.values()) + local.kept_bytes))


def fitting_microbatch(risk: EmpiricalRisk, num_samples: int) -> int:
    """Choose the examples of a microbatch by the network's memory for one, the same on every run.

    Args:
        risk: whose first microbatch is measured; a few examples serve.
        num_samples: examples in all.
    """
    x, y = next(iter(risk.microbatches()))
    per_example = linearisation_bytes(risk, x, y) / len(y)
    fitting = int(_GRAPH_BUDGET[risk.device.type] / max(per_example, 1))
    one_share = -(-num_samples // processes.count())
    return max(1, min(fitting, one_share, _LARGEST_MICROBATCH))


def within_memory(
    compute: Callable[[], _T], risk: EmpiricalRisk, kept: Kept, *, exchanges: bool = False
) -> _T:
    """Compute; where memory runs out, again without what is kept, and by smaller microbatches.

    Args:
        compute: passes over the data.
        risk: whose microbatches are halved.
        kept: what passes have in common.
        exchanges: whether processes exchange sums within it, so that none can begin again.

    Raises:
        RuntimeError: memory runs out however small they are.
    """
    while True:
        try:
            return compute()
        except Exception as error:
            stuck = exchanges and processes.count() > 1
            if stuck or not is_out_of_memory(error):
                raise
            if not (kept.let_go() or (are_apart(risk) and risk.halve())):
                raise
        if risk.device.type == "cuda":  # fragments, now that nothing refers to them
            torch.cuda.empty_cache()


def available_bytes(device: torch.device) -> int:
    """Memory that can still be taken on ``device``, container limits included."""
    if device.type == "cuda":  # what torch has taken and not given out can be taken, too
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    available = sys.maxsize
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        available = int(fields["MemAvailable"].split()[0]) * 1024
    for kind, held in (("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData")):
        ceiling = resource.getrlimit(getattr(resource, kind))[0]
        status = Path("/proc/self/status")
        if ceiling != resource.RLIM_INFINITY and status.exists():
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            available = min(available, ceiling - int(fields[held].split()[0]) * 1024)
    return min((available, *_left_to_groups()))


def _left_to_groups() -> Iterator[int]:
    """Give what each control group that this process is in may still take, of both versions.

    What a group holds of files that nobody reads at the moment would be given back.
    """
    listed = _ROOT / "proc/self/cgroup"
    for line in listed.read_text().splitlines() if listed.exists() else ():
        number, kinds, path = line.split(":", 2)
        if number == "0":
            top, names, cached = _ROOT / "sys/fs/cgroup", ("max", "current"), "inactive_file"
        elif "memory" in kinds.split(","):
            top, names = _ROOT / "sys/fs/cgroup/memory", ("limit_in_bytes", "usage_in_bytes")
            cached = "total_inactive_file"
        else:
            continue
        own = top / path.lstrip("/")  # in a container it may be no path that is seen here
        for group in {top, *(group for group in (own, *own.parents) if top in group.parents)}:
            try:
                limit, used = ((group / f"memory.{name}").read_text().strip() for name in names)
                stat = dict(map(str.split, (group / "memory.stat").read_text().splitlines()))
            except OSError:
                continue
            if limit.isdigit():
                yield int(limit) - int(used) + int(stat.get(cached, 0))


def held_bytes(device: torch.device) -> int:
    """Memory that is taken now: allocated on a GPU, resident on a CPU; 0 where nobody tells."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    resident = Path("/proc/self/statm")
    if not resident.exists():
        return 0
    return int(resident.read_text().split()[1]) * resource.getpagesize()


def peak_bytes(device: torch.device) -> int:
    """Largest memory so far: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes * (1 if sys.platform == "darwin" else 1024)
