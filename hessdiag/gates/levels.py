"""How the limits of a gate share its level α."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hessdiag.gates.limits import Limit
from hessdiag.metrics.metric import eigenvalue_confidence


@dataclass(frozen=True)
class Levels:
    """How the limits share α.

    Attributes:
        eigenvalues: that the intervals of a part's eigenvalues have to keep; half of α at most is
            theirs.
        sampled: what they leave to all sampled limits together.
    """

    eigenvalues: float
    sampled: float

    @classmethod
    def of(cls, limits: Iterable[Limit], alpha: float) -> Levels:
        """Give each run of Lanczos that a verdict rests on, of a part now or then, its share."""
        runs = {
            (limit.parsed.source, part, then)
            for limit in limits
            for part in limit.parsed.parts
            if limit.parsed.end
            for then in (False, True)[: 1 + (limit.kind == "max-increase")]
        }
        least, taken = alpha / max(2 * len(runs), 1), 1 - eigenvalue_confidence()
        return cls(least, alpha - taken * len(runs) if taken <= least else alpha)

    def of_one(self, limit: Limit, num_sampled: int = 1) -> float:
        """Give the level of one limit; of an increase, half of it belongs to the baseline."""
        if limit.parsed.end:
            return self.eigenvalues * (1 + (limit.kind == "max-increase"))
        return self.sampled / max(num_sampled, 1)
