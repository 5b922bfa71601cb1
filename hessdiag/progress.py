"""Where a computation stands, for whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a computation stands.

    Attributes:
        done: of its work, a fraction of what is under way included.
        expected: work in all, or a guess at it.
        doing: what is under way, in a word.
    """

    done: float
    expected: float
    doing: str = ""

    @property
    def passes(self) -> float:
        """The same as ``done``, by its name in hessdiag 0.1."""
        return self.done


Watch = Callable[[Progress], None]
"""Is told now and then where a computation stands."""
