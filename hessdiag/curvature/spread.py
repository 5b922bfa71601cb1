"""How one parameter lies over the processes of a mesh, and how it is gathered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from hessdiag.errors import InputError
from hessdiag.linalg.sharded_space import Piece


@dataclass(frozen=True)
class Spread:
    """How one parameter lies over a mesh.

    Attributes:
        mesh: the processes.
        placements: for each dimension of the mesh.
        shape: of the whole parameter.
        stride: likewise.
    """

    mesh: DeviceMesh
    placements: tuple[Placement, ...]
    shape: torch.Size
    stride: tuple[int, ...]

    def whole(self, local: Tensor) -> Tensor:
        """Gather the parameter; its gradient is summed over the mesh."""
        spread = DTensor.from_local(
            local,
            self.mesh,
            self.placements,
            run_check=False,
            shape=self.shape,
            stride=self.stride,
        )
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
