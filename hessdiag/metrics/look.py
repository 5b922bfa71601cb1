"""Parts of which no more is known than probes and Lanczos told, as metrics read them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from hessdiag.linalg.lanczos import RitzValue
from hessdiag.linalg.trace import Estimate, Samples


@dataclass(frozen=True)
class Sampled:
    """A part of which nothing is known but samples and, where looked for, its largest eigenvalues.

    Attributes:
        samples: what each probe told.
        top: the largest first.
    """

    samples: Samples
    top: tuple[RitzValue, ...] = ()

    @functools.cached_property
    def trace(self) -> Estimate:
        """Estimate tr A."""
        return self.samples.trace()

    @functools.cached_property
    def frobenius_norm(self) -> Estimate:
        """Estimate ‖A‖_F."""
        return self.samples.frobenius_norm()

    @functools.cached_property
    def layers(self) -> dict[str, Estimate]:
        """Estimate the traces of the layers, or of whatever the samples are told apart by."""
        return {name: layer.trace() for name, layer in (self.samples.layers or {}).items()}


@dataclass(frozen=True)
class Look:
    """What is known of the parts at one look."""

    parts: Mapping[str, Sampled]
