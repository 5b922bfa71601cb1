"""What became of three descents in matrix sensing, ``hessdiag.sensing/1``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hessdiag.codec import Count, Whole
from hessdiag.errors import InputError
from hessdiag.results import Measured, Seconds

Array = NDArray[np.float64]

TITLES = {"gd": "gradient descent", "weight-noise": "weight noise", "nso": "NSO"}
"""Names of the methods, as people read them."""


@dataclass(frozen=True)
class Settings:
    """What the example is made of; the defaults are the paper's.

    Attributes:
        dimension: d, the side of X and of U.
        rank: of X.
        num_measurements: m.
        lr: learning rate of the descent.
        steps: of the descent.
        sigma: σ, standard deviation of the noise in each entry of U.
        num_pairs: k, pairs of opposite noise of NSO.
        seed: of all randomness.
        dtype: "float32" or "float64".
        device: "auto", "cpu", "cuda" or "cuda:i".
    """

    dimension: Count = 100
    rank: Count = 5
    num_measurements: Count = 2500
    lr: float = 0.0025
    steps: Count = 5000
    sigma: float = 0.08
    num_pairs: Count = 1
    seed: Whole = 0
    dtype: str = "float32"
    device: str = "auto"


class Curves(Struct, frozen=True):
    """What one method goes through, at the logged steps ``(t,)``; NaN where it has diverged.

    Attributes:
        name: of the method.
        loss: f(U).
        relative_error: ‖X − UUᵀ‖/‖X‖.
        trace: tr ∇²f(U).
    """

    name: str
    loss: Array
    relative_error: Array
    trace: Array


class Sensing(Measured, frozen=True, kw_only=True, tag="hessdiag.sensing/1"):
    """The three methods from one U₀, side by side.

    Attributes:
        settings: as given, with the device that it ran on.
        steps: those logged, from 0 to the last.
        methods: what each went through.
        cost: time.
        notes: the descents that diverged.
    """

    settings: Settings
    steps: tuple[Count, ...]
    methods: tuple[Curves, ...]
    cost: Seconds
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.steps),)
        for curves in self.methods:
            for table in (curves.loss, curves.relative_error, curves.trace):
                if table.shape != shape:
                    raise InputError(
                        f"the curves of {curves.name} do not fit the steps",
                        got=table.shape,
                        wanted=shape,
                    )

    @property
    def curves(self) -> dict[str, Curves]:
        """What each method went through, by name."""
        return {curves.name: curves for curves in self.methods}
