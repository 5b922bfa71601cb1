"""Several processes that each hold a share of the examples; alone, everything here does nothing.

Started by ``torchrun``, every process runs the same program on the same numbers. Sums over the
examples are the only thing that they exchange, so all take the same steps in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from hessdiag.errors import InputError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def count() -> int:
    """Count the processes."""
    return dist.get_world_size() if _joined() else 1


def rank() -> int:
    """Tell which process this is, from 0."""
    return dist.get_rank() if _joined() else 0


def is_first() -> bool:
    """Tell whether this process speaks and writes for all."""
    return rank() == 0


def local_rank() -> int:
    """Tell which of its machine's processes this is, and so which GPU is its own."""
    return int(os.environ.get("LOCAL_RANK") or 0)


@contextmanager
def joined(device: torch.device | None = None, *, sharded: bool = False) -> Generator[None]:
    """Work together within the block with the processes that ``torchrun`` started, if it did.

    A process group that is there already, such as that of a training script, is used within the
    block and left as it is; without the block every process of it works alone, on its own numbers.

    Args:
        device: where this process computes; None for a GPU of its own, where there is one, and the
            CPU as well. Sums run over NCCL on GPUs and over Gloo on CPUs.
        sharded: each process's data are its own examples, as a ``DistributedSampler`` deals them;
            else all processes are given the same data and share them.
    """
    global _group
    there = dist.is_available() and dist.is_initialized()
    if _group is not None or not (there or int(os.environ.get("WORLD_SIZE") or 1) > 1):
        yield
        return
    if not there:
        if device is None and local_rank() < torch.cuda.device_count() and dist.is_nccl_available():
            device = torch.device("cuda", local_rank())
        if device is not None and device.type == "cuda":
            own = local_rank() if str(device) == "cuda" else device.index
            torch.cuda.set_device(own)
            dist.init_process_group("cpu:gloo,cuda:nccl")  # some numbers are the host's
        else:
            dist.init_process_group("gloo")
    _group = "sharded" if sharded else "shared"
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise InputError(
                f"process {rank()} of {count()} lost the others",
                got=str(error).splitlines()[0],
                hint="one of them failed; its own message says why",
            ) from error
        raise
    finally:
        _group = None
        if not there:
            dist.destroy_process_group()


def share(size: int) -> slice:
    """Choose which of ``size`` consecutive items are this process's: nearly equal, in order."""
    whole, rest = divmod(size, count())
    start = rank() * whole + min(rank(), rest)
    return slice(start, start + whole + (rank() < rest))


def summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sum each tensor over the processes, all in one exchange; constants to differentiation.

    Args:
        tensors: of one dtype and device, shaped alike in all processes.

    Returns:
        New tensors; alone, those given.
    """
    if count() == 1:
        return list(tensors)
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    sizes = [tensor.numel() for tensor in tensors]
    return [part.view_as(t) for part, t in zip(flat.split(sizes), tensors, strict=True)]


def add_up(tensor: Tensor, groups: Sequence[dist.ProcessGroup | None] = (None,)) -> None:
    """Sum a tensor over the processes, or over one group of them after another, in place."""
    for group in groups if count() > 1 else ():
        dist.all_reduce(tensor, group=group)


def total(tensor: Tensor) -> Tensor:
    """Sum a tensor over the processes; has derivatives of every order.

    Every process differentiates its own part of a sum over all; as the total enters all parts, its
    derivative is the sum of the parts' derivatives, again a total.
    """
    if count() == 1:
        return tensor
    if has_torch_function_unary(tensor):  # a mode is to see a function of torch, not its inside
        return handle_torch_function(total, (tensor,), tensor)
    return _Total.apply(tensor)  # pyright: ignore[reportReturnType]


def agreed(value: Any) -> Any:
    """Give every process the first one's value, anything that pickles."""
    if count() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def mesh(shard: bool | DeviceMesh | None, *, copies: int = 1) -> DeviceMesh | None:
    """Lay the processes out, each copy of a network over as many of them as there are for it.

    Args:
        shard: whether to; a mesh, or None, is taken as it is.
        copies: of the network.

    Raises:
        InputError: a single process; copies that do not share the processes evenly.
    """
    if not isinstance(shard, bool):
        return shard
    if not shard:
        return None
    if count() == 1 or not 1 <= copies <= count() // 2 or count() % copies:
        raise InputError(
            "the processes cannot share the network"
            if count() > 1
            else "a single process has nobody to share the network with",
            got=f"{count()} processes, {copies} copies",
            wanted="two processes or more for each copy",
            hint="torchrun --nproc-per-node 4 -m hessdiag …, or `with hessdiag.joined():`",
        )
    from torch.distributed.device_mesh import init_device_mesh

    kind = "cuda" if "nccl" in dist.get_backend() else "cpu"  # "auto" is no kind
    if copies == 1:
        return init_device_mesh(kind, (count(),), mesh_dim_names=("shards",))
    shape = copies, count() // copies
    return init_device_mesh(kind, shape, mesh_dim_names=("copies", "shards"))


def wait() -> None:
    """Go on when all have come here."""
    if count() > 1:
        dist.barrier()


@contextmanager
def in_turn() -> Generator[None]:
    """Let the first process pass the block before the others enter it."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def is_mine(index: int) -> bool:
    """Tell whether this process is to do what comes at ``index``: by turns, or all if sharded."""
    return _group == "sharded" or index % count() == rank()


def numbers(own: Sequence[int]) -> Sequence[int]:
    """Number in all the data what has the numbers ``own`` in this process's."""
    return [number * count() + rank() for number in own] if _group == "sharded" else own


def _joined() -> bool:
    return _group is not None


_group: str | None = None
"""How the processes' data are dealt out; None while each works alone, whatever group there is."""


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004
        result = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004
        return total(grads[0])
