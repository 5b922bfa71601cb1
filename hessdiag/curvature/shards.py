"""Parameters spread over the processes of a device mesh, and a network that is called with them.

A process keeps its shard of each parameter as a plain tensor, the leaf that is differentiated. A
call of torch that takes a parameter is given the whole one, gathered for that call. The sums over
processes that this takes in the backward pass are DTensor's, and have derivatives of every order.

A module that is parallelised over tensors already is called as the module it was: its parameters
stay where they are, but its layers' inputs and outputs do not (second derivatives through
``ColwiseParallel`` and ``RowwiseParallel`` are wrong by 2 to 30 %, torch 2.15).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hessdiag.curvature.gathered import Gathered
from hessdiag.curvature.spread import Spread
from hessdiag.errors import InputError
from hessdiag.linalg import processes
from hessdiag.linalg.sharded_space import ShardedSpace


@dataclass
class Sharding:
    """How a network's parameters lie over processes, and how these share the examples.

    Attributes:
        mesh: of all processes; they deal out the examples.
        given: of the user's DTensors; None where ``mesh`` cuts whole parameters along its last
            dimension.
        spreads: by ``id``, the shards with how they lie.
    """

    mesh: DeviceMesh
    given: DeviceMesh | None = None
    spreads: dict[int, tuple[Tensor, Spread]] = field(
        default_factory=dict[int, tuple[Tensor, Spread]]
    )

    def __post_init__(self) -> None:
        self.gathered = Gathered()

    def gathering(self) -> AbstractContextManager[Any]:
        """Within the block, calls of torch that take a shard are given the whole parameter."""
        return Gathering(self)

    @classmethod
    def of(cls, model: nn.Module, mesh: DeviceMesh | None) -> Sharding | None:
        """Give the sharding of a network; None where each process holds all of it.

        Raises:
            InputError: the processes of the mesh do not work together.
        """
        given = {p.device_mesh for p in model.parameters() if isinstance(p, DTensor)}
        if mesh is None and not given:
            return None
        if mesh is not None and given:
            raise InputError(
                "the network's parameters are DTensors already",
                got="shard= beside them",
                hint="leave shard= out: they are taken as they are",
            )
        own = next(iter(given)) if given else None
        root = mesh or next(iter(given))
        if own is not None and own.size() != processes.count():
            root = own._get_root_mesh()  # pyright: ignore[reportPrivateUsage]
        if len(given) > 1 or processes.count() != root.size() or root.size() == 1:
            raise InputError(
                "the processes of the mesh do not work together",
                got=f"{processes.count()} at work, {len(given)} meshes"
                if len(given) > 1
                else f"{root.size()} in the mesh, {processes.count()} at work",
                hint="start them by torchrun, and call this `with hessdiag.joined():`",
            )
        if root.ndim > 1 and root.mesh_dim_names is None:
            raise InputError(
                "the dimensions of the mesh have no names",
                got=f"a mesh of {tuple(root.shape)}",
                wanted='mesh_dim_names=("copies", "shards")',
            )
        return cls(root, own)

    def local(self, tensor: Tensor) -> Tensor:
        """Take this process's part of a tensor of the network's; what is no parameter is whole."""
        if isinstance(tensor, DTensor):
            return tensor.to_local()
        if id(tensor) in self.spreads or not isinstance(tensor, nn.Parameter):
            return tensor
        piece = self._own(tensor).piece()
        return tensor[piece.start : piece.stop] if tensor.ndim else tensor

    def follow(self, copies: Iterable[tuple[Tensor, Tensor]]) -> Sharding:
        """Give the sharding of a copy of the network, from (tensor, its copy)."""
        spreads: dict[int, tuple[Tensor, Spread]] = {}
        for tensor, copy in copies:
            if id(tensor) in self.spreads:
                spread = self.spreads[id(tensor)][1]
            elif isinstance(tensor, DTensor):
                spread = Spread(
                    tensor.device_mesh,
                    tuple(tensor.placements),
                    tensor.shape,
                    tensor.stride(),
                )
            else:
                spread = self._own(tensor)
            spreads[id(copy)] = copy, spread
        return Sharding(self.mesh, self.given, spreads)

    def space(self, parameters: Mapping[str, Tensor], *, on_host: bool = False) -> ShardedSpace:
        """Make the space of vectors whose shards are shaped like these parameters."""
        pieces = [self.spreads[id(tensor)][1].piece() for tensor in parameters.values()]
        mesh = self._one_copy
        groups = [mesh.get_group(dim) for dim in range(mesh.ndim)]
        return ShardedSpace(pieces, groups, on_host=on_host)

    @property
    def dealing(self) -> Dealing:
        """How the processes share the examples."""
        here = self.mesh.get_coordinate() or [0] * self.mesh.ndim
        index = 0
        for dim, own in enumerate(here):
            index = index * self.mesh.size(dim) + own
        groups = tuple(self.mesh.get_group(dim) for dim in range(self.mesh.ndim))
        return Dealing(index, self.mesh.size(), groups)

    @property
    def num_shards(self) -> int:
        """Over how many processes one copy of the parameters lies."""
        return self._one_copy.size()

    @property
    def replicas(self) -> tuple[dist.ProcessGroup, ...]:
        """Groups over which products are summed, beyond the sums of their shards."""
        own = self._one_copy
        if own.size() == self.mesh.size():
            return ()
        inner = own.mesh_dim_names or ()
        names = enumerate(self.mesh.mesh_dim_names or ())
        return tuple(self.mesh.get_group(dim) for dim, name in names if name not in inner)

    @property
    def _one_copy(self) -> DeviceMesh:
        """The mesh over which one copy of the parameters lies."""
        if self.given is not None or self.mesh.ndim == 1:
            return self.given or self.mesh
        return self.mesh[(self.mesh.mesh_dim_names or "")[-1]]

    def _own(self, tensor: Tensor) -> Spread:
        """Cut a whole parameter by rows; beside DTensors, whole ones stay so."""
        cut: Placement = Shard(0) if tensor.ndim and self.given is None else Replicate()
        stride = torch.empty(tensor.shape, device="meta").stride()
        mesh = self._one_copy
        return Spread(mesh, (cut,) * mesh.ndim, tensor.shape, stride)


@dataclass(frozen=True)
class Dealing:
    """How examples are dealt: this process's turn, the number of turns, the groups that sum."""

    index: int
    count: int
    groups: tuple[dist.ProcessGroup, ...]


class Gathering(TorchFunctionMode):
    """Within the block, calls of torch that take a shard are given the whole parameter."""

    def __init__(self, sharding: Sharding) -> None:
        super().__init__()
        self._sharding = sharding

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _OF_ANY_PART:
            return func(*args, **kwargs)
        if func in _LAYERS and torch.is_grad_enabled():
            return self._sharding.gathered.layer(func, args, kwargs, self._sharding.spreads)
        found: dict[int, Tensor] = {}  # one gathering a call, however often it is named
        return func(*self._given(args, found), **self._given(kwargs, found))

    def _given(self, value: Any, found: dict[int, Tensor]) -> Any:
        if isinstance(value, Tensor):
            shard = self._sharding.spreads.get(id(value))
            if shard is None:
                return value
            if id(value) not in found:
                found[id(value)] = self._sharding.gathered.of(*shard)
            return found[id(value)]
        if type(value) in (tuple, list):
            return type(value)(self._given(item, found) for item in value)
        if type(value) is dict:
            return {key: self._given(item, found) for key, item in value.items()}
        return value


_OF_ANY_PART: set[Callable[..., Any]] = {
    getattr(Tensor, name).__get__
    for name in ("dtype", "device", "requires_grad", "is_leaf", "layout", "is_cuda", "grad_fn")
}
"""What a shard says of itself as the whole parameter would."""


_LAYERS: set[Callable[..., Any]] = {
    *(F.linear, F.embedding, F.conv1d, F.conv2d, F.conv3d, torch.addmm, torch.baddbmm),
    *(torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.__matmul__),
}
"""What takes large parameters and gives one tensor."""
