"""What is known of the blocks over pairs of layers; the fields are those of the JSON."""

from __future__ import annotations

import dataclasses
from typing import Self

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from hessdiag.block_maps.blocks_settings import Chosen
from hessdiag.codec import Count
from hessdiag.curvature.truth import Truth
from hessdiag.linalg.trace import Estimate
from hessdiag.metadata import Provenance
from hessdiag.parts import check_part
from hessdiag.results import LossName, Measured, Seconds

Array = NDArray[np.float64]


class BlockLayer(Struct, frozen=True):
    """A layer, or a parameter.

    Attributes:
        name: of the module, or of the parameter.
        size: its entries.
        exact: whether its blocks were multiplied out.
    """

    name: str
    size: Count
    exact: bool


class BlockNorms(Struct, frozen=True):
    """The blocks A_lm of one part A.

    Attributes:
        norm: ‖A_lm‖_F, ``(L, L)`` and symmetric.
        stderr: their standard errors; 0 where a block is exact.
        within: share of ‖A‖²_F in the blocks A_ll; null where A is zero.
        frobenius_norm: ‖A‖_F, of all the blocks together.
    """

    norm: Array
    stderr: Array
    within: Estimate | None
    frobenius_norm: Estimate


class Blocks(Measured, frozen=True, kw_only=True, tag="hessdiag.blocks/1"):
    """Norms of the blocks of H, G and N over pairs of layers.

    Attributes:
        risk: the loss.
        settings: as asked for, completed by what was chosen.
        layers: those of the rows and columns, in the network's order.
        parts: by name.
        cost: time.
        truth: the derivatives beside those of the module as it is called.
        notes: what qualifies the numbers.
    """

    risk: LossName = msgspec.field(name="loss")
    settings: Chosen
    layers: tuple[BlockLayer, ...]
    parts: dict[str, BlockNorms]
    cost: Seconds
    truth: Truth | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.layers),) * 2
        for name, part in self.parts.items():
            check_part(name)
            if part.norm.shape != shape or part.stderr.shape != shape:
                raise ValueError("the tables are not a row and a column a layer")

    def of(self, provenance: Provenance) -> Self:
        """Name the checkpoint, the network and the data."""
        settings = dataclasses.replace(self.settings, batch_size=provenance.batch_size)
        return replace(super().of(provenance), settings=settings)
