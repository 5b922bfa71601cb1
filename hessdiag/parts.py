"""The Hessian and the two parts that it is the sum of, by name and as an option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hessdiag.errors import InputError, unknown
from hessdiag.settings import check, option

PARTS = ("hessian", "gn", "nme")


def check_part(name: str) -> None:
    """Refuse what is no part."""
    if name not in PARTS:
        raise unknown("part", name, PARTS)


@dataclass(frozen=True)
class PartsOption:
    """Which parts are wanted."""

    parts: Annotated[
        tuple[str, ...],
        option(
            "all, hessian, gn or nme; may be repeated. Default: all.",
            choices=("all", *PARTS),
            flag="--part",
        ),
    ] = PARTS

    def __post_init__(self) -> None:
        """Refuse what is out of range; name each part once.

        Raises:
            InputError: a field is out of its range, or no part is wanted.
        """
        check(self)
        if not self.parts:
            raise InputError("no part is asked for", wanted=", ".join(PARTS))
        once = PARTS if "all" in self.parts else tuple(dict.fromkeys(self.parts))
        object.__setattr__(self, "parts", once)
