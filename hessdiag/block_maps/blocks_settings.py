"""What a map of blocks is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hessdiag.metadata import Circumstances
from hessdiag.parts import PartsOption
from hessdiag.settings import MOST_PROBES, option
from hessdiag.subject_options import SeedOption


@dataclass(frozen=True)
class Settings(SeedOption, PartsOption):
    """How the norms of blocks are estimated.

    Attributes:
        parts: those wanted, of "hessian", "gn", "nme"; "all" stands for all three.
        num_probes: Rademacher probes of each layer, shared by the parts; a layer of no more
            entries than that is multiplied out, and its blocks are exact.
        by: what a block belongs to, the parameters of a "layer" together or each "parameter".
        seed: of all randomness.
    """

    num_probes: Annotated[int, option("Probes of each layer.", ge=2, le=MOST_PROBES)] = 16
    by: Annotated[
        str,
        option(
            "layer: its weight, bias and scales together; parameter: each alone.",
            choices=("layer", "parameter"),
        ),
    ] = "layer"


@dataclass(frozen=True)
class Chosen(Circumstances, Settings):
    """The same, completed by what was chosen."""
