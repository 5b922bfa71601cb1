"""What a map of blocks is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hessdiag.errors import InputError
from hessdiag.parts import PARTS
from hessdiag.settings import check, option


@dataclass(frozen=True)
class Settings:
    """How the norms of blocks are estimated.

    Attributes:
        parts: those wanted, of "hessian", "gn", "nme"; "all" stands for all three.
        num_probes: Rademacher probes of each layer, shared by the parts; a layer of no more
            entries than that is multiplied out, and its blocks are exact.
        by: what a block belongs to, the parameters of a "layer" together or each "parameter".
        seed: of all randomness.
    """

    parts: Annotated[
        tuple[str, ...],
        option(
            "all, hessian, gn or nme; may be repeated. Default: all.",
            choices=("all", *PARTS),
            flag="--part",
        ),
    ] = PARTS
    num_probes: Annotated[int, option("Probes of each layer.", ge=2)] = 16
    by: Annotated[
        str,
        option(
            "layer: its weight, bias and scales together; parameter: each alone.",
            choices=("layer", "parameter"),
        ),
    ] = "layer"
    seed: Annotated[int, option("Seed of all randomness.")] = 0

    def __post_init__(self) -> None:
        check(self)
        if not self.parts:
            raise InputError("no part is asked for", wanted=", ".join(PARTS))
        once = PARTS if "all" in self.parts else tuple(dict.fromkeys(self.parts))
        object.__setattr__(self, "parts", once)


@dataclass(frozen=True)
class Chosen(Settings):
    """The same, completed by what was chosen.

    Attributes:
        dtype: floating type computed in.
        device: where.
        bn: BatchNorm mode.
        batch_size: examples in a microbatch; None where the caller made the batches.
        params: globs over the parameters, or None.
    """

    dtype: str = "float32"
    device: str = "cpu"
    bn: str = "eval"
    batch_size: int | None = None
    params: tuple[str, ...] | None = None
