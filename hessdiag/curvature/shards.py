"""Parameters spread over the processes of a device mesh, and a network that is called with them.

A process keeps its shard of each parameter as a plain tensor, the leaf that is differentiated. Where
a call of torch takes a parameter, it is given the whole one, gathered for that call, or the DTensor
that the user's own parallelisation has made of it. The sums over processes that this takes in the
backward pass are DTensor's, and have derivatives of every order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from hessdiag.errors import InputError
from hessdiag.linalg import processes
from hessdiag.linalg.sharded_space import Piece, ShardedSpace


@dataclass(frozen=True)
class Spread:
    """How one parameter lies over a mesh.

    Attributes:
        mesh: the processes.
        placements: for each dimension of the mesh.
        shape: of the whole parameter.
        stride: likewise.
        gathered: whether a call is given the whole parameter; else a DTensor.
    """

    mesh: DeviceMesh
    placements: tuple[Placement, ...]
    shape: torch.Size
    stride: tuple[int, ...]
    gathered: bool

    def used(self, local: Tensor) -> Tensor:
        """Make of the shard what a call is given."""
        spread = DTensor.from_local(
            local,
            self.mesh,
            self.placements,
            run_check=False,
            shape=self.shape,
            stride=self.stride,
        )
        if not self.gathered:
            return spread
        every: Sequence[Placement] = [Replicate()] * self.mesh.ndim
        summed: Sequence[Placement] = [Partial()] * self.mesh.ndim
        whole = spread.redistribute(placements=every).to_local(grad_placements=summed)
        return whole.contiguous()

    def piece(self) -> Piece:
        """Say which part of the parameter is here."""
        start, size, counts, cut = 0, self.shape[0] if self.shape else 1, True, 0
        here = self.mesh.get_coordinate() or [0] * self.mesh.ndim
        cuts = {p.dim for p in self.placements if isinstance(p, Shard)}
        if len(cuts) > 1 or any(type(p) not in (Shard, Replicate) for p in self.placements):
            raise InputError(
                "a parameter is cut in a way that is not known here",
                got=", ".join(map(str, self.placements)),
                wanted="Replicate, or Shard along one of its dimensions",
            )
        if cuts:
            cut = cuts.pop()
            size = self.shape[cut]
        for dim, placement in enumerate(self.placements):
            if isinstance(placement, Shard):
                each = -(-size // self.mesh.size(dim))
                first = min(here[dim] * each, size)
                start, size = start + first, min(each, size - first)
            else:
                counts &= here[dim] == 0
        whole = self.shape[cut] if self.shape else 1
        outer, inner = self.shape[:cut].numel(), self.shape[cut + 1 :].numel()
        return Piece(outer, whole, inner, start, start + size, counts)


@dataclass
class Sharding:
    """How a network's parameters lie over processes, and how these share the examples.

    Attributes:
        mesh: over which whole parameters are cut: its last dimension holds the shards of one copy;
            None where parameters are DTensors of the user's.
        spreads: by ``id``, the shards with how they lie.
    """

    mesh: DeviceMesh | None
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
        root = mesh or next(iter(given))
        if len(given) > 1 or processes.count() < root.size() or processes.count() == 1:
            raise InputError(
                "the processes of the mesh do not work together",
                got=f"{processes.count()} at work, {len(given)} meshes"
                if len(given) > 1
                else f"{root.size()} in the mesh, {processes.count()} at work",
                hint="start them by torchrun, and call this `with hessdiag.joined():`",
            )
        if mesh is not None and mesh.ndim > 1 and mesh.mesh_dim_names is None:
            raise InputError(
                "the dimensions of the mesh have no names",
                got=f"a mesh of {tuple(mesh.shape)}",
                wanted='mesh_dim_names=("copies", "shards")',
            )
        return cls(mesh)

    def local(self, tensor: Tensor) -> Tensor:
        """Take this process's part of a tensor of the network's; what is no parameter is whole."""
        if isinstance(tensor, DTensor):
            return tensor.to_local()
        if self.mesh is None or id(tensor) in self.spreads or not isinstance(tensor, nn.Parameter):
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
                    gathered=False,
                )
            elif self.mesh is not None:
                spread = self._own(tensor)
            else:
                continue
            spreads[id(copy)] = copy, spread
        return Sharding(self.mesh, spreads)

    def space(self, parameters: Mapping[str, Tensor], *, on_host: bool = False) -> ShardedSpace:
        """Make the space of vectors whose shards are shaped like these parameters."""
        mesh = self._one_copy
        first = not any(mesh.get_coordinate() or [0])
        pieces = [
            self.spreads[id(tensor)][1].piece()
            if id(tensor) in self.spreads
            else Piece(1, tensor.numel(), 1, 0, tensor.numel(), counts=first)
            for tensor in parameters.values()
        ]
        return ShardedSpace(pieces, _groups(mesh), on_host=on_host)

    @property
    def dealing(self) -> Dealing:
        """How the processes share the examples."""
        if self.mesh is not None:
            return Dealing.over(self.mesh, range(self.mesh.ndim))
        mesh = self._one_copy
        if processes.count() == mesh.size():
            return Dealing(0, 1, ())
        root = mesh._get_root_mesh()
        own = set(mesh.mesh_dim_names or ())
        names = root.mesh_dim_names or ()
        others = [dim for dim, name in enumerate(names) if name not in own]
        if root.size() != processes.count() or not own:
            raise InputError(
                "nothing tells how the processes beside the network's mesh share the examples",
                got=f"{processes.count()} processes, {mesh.size()} in the mesh",
                wanted='a mesh such as init_device_mesh(…, mesh_dim_names=("data", "tensor")), of '
                'which the network has ["tensor"]',
            )
        return Dealing.over(root, others)

    @property
    def replicas(self) -> tuple[dist.ProcessGroup, ...]:
        """Groups over which products are summed, beyond the sums of their shards."""
        if self.mesh is None:
            return self.dealing.groups
        return tuple(self.mesh.get_group(dim) for dim in range(self.mesh.ndim - 1))

    @property
    def _one_copy(self) -> DeviceMesh:
        """The mesh over which one copy of the parameters lies."""
        if self.mesh is None:
            return next(iter(self.spreads.values()))[1].mesh
        return self.mesh if self.mesh.ndim == 1 else self.mesh[(self.mesh.mesh_dim_names or "")[-1]]

    def _own(self, tensor: Tensor) -> Spread:
        cut: Placement = Shard(0) if tensor.ndim else Replicate()
        stride = torch.empty(tensor.shape, device="meta").stride()
        return Spread(self._one_copy, (cut,), tensor.shape, stride, gathered=True)


@dataclass(frozen=True)
class Dealing:
    """How examples are dealt: this process's turn, the number of turns, the groups that sum."""

    index: int
    count: int
    groups: tuple[dist.ProcessGroup, ...]

    @classmethod
    def over(cls, mesh: DeviceMesh, dims: Iterable[int]) -> Dealing:
        """Deal over some dimensions of a mesh."""
        here = mesh.get_coordinate() or [0] * mesh.ndim
        index, count, groups = 0, 1, list[dist.ProcessGroup]()
        for dim in dims:
            index, count = index * mesh.size(dim) + here[dim], count * mesh.size(dim)
            groups.append(mesh.get_group(dim))
        return cls(index, count, tuple(groups))


def _groups(mesh: DeviceMesh) -> list[dist.ProcessGroup]:
    return [mesh.get_group(dim) for dim in range(mesh.ndim)]


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


class Gathered:
    """Whole parameters within graphs: not kept, but gathered again where a backward pass asks."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[StorageWeakRef, Tensor, Spread]] = {}
        self._last: tuple[Tensor | None, Tensor | None] = None, None

    def of(self, shard: Tensor, spread: Spread) -> Tensor:
        """Gather a parameter, with a graph that leads to its shard."""
        whole = spread.used(shard)
        if spread.gathered:
            storage = whole.untyped_storage()
            if len(self._known) > 1000:
                self._known = {k: v for k, v in self._known.items() if not v[0].expired()}
            self._known[storage._cdata] = StorageWeakRef(storage), shard, spread
        return whole

    @contextmanager
    def again(self) -> Generator[None]:
        """Within the block, graphs hold shards in place of whole parameters."""
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
                yield
        finally:
            self._last = None, None

    def _pack(self, tensor: Tensor) -> Any:
        if isinstance(tensor, DTensor) or tensor.is_sparse or tensor.is_conj() or tensor.is_neg():
            return tensor
        known = self._known.get(tensor.untyped_storage()._cdata)
        if known is None or known[0].expired() or tensor.dtype != known[1].dtype:
            return tensor, tensor._version
        return _View(known[1], known[2], tensor.shape, tensor.stride(), tensor.storage_offset())

    def _unpack(self, kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        if not isinstance(kept, _View):
            tensor, version = kept
            if tensor._version != version:
                raise RuntimeError(
                    "a tensor needed for the gradient has been modified by an inplace operation"
                )
            return tensor
        shard, whole = self._last
        if shard is not kept.shard or whole is None:
            self._last = None, None  # its memory first
            with torch.no_grad():
                whole = self.of(kept.shard.detach(), kept.spread)
            self._known[whole.untyped_storage()._cdata] = (
                StorageWeakRef(whole.untyped_storage()),
                kept.shard,
                kept.spread,
            )
            self._last = kept.shard, whole
        return whole.as_strided(kept.shape, kept.stride, kept.offset)


@dataclass(frozen=True)
class _View:
    shard: Tensor
    spread: Spread
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
