"""Settings: frozen dataclasses whose fields carry meaning, range and option in one place.

A field is ``Annotated[int, option("Eigenvalues at each end.", ge=0)] = 5``. The library checks the
ranges where a dataclass is made; the command line makes its options of the same fields, and turns
the `names` of fields in messages into flags.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from msgspec import Meta, ValidationError, convert

from hessdiag.errors import InputError, unknown


def option(
    text: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Sequence[str] | None = None,
    flag: str | None = None,
    metavar: str | None = None,
    hidden: bool = False,
    symbol: str | None = None,
) -> Meta:
    """Describe a field of settings.

    Args:
        text: what it means, as ``--help`` says it.
        ge: least value, likewise ``gt``, ``le`` and ``lt``; a range takes finite numbers only.
        le: largest value.
        gt: value that it lies above.
        lt: value that it lies below.
        choices: values that a text, or each text of several, can take.
        flag: its option, where that is not the field's name.
        metavar: what stands for its value in ``--help``.
        hidden: the library's alone, no option of the command line.
        symbol: in formulas and on axes.
    """
    extra: dict[str, Any] = {"choices": choices, "flag": flag, "metavar": metavar, "hidden": hidden}
    extra |= {"ge": ge, "gt": gt, "le": le, "lt": lt}  # of Meta itself they would refuse `| None`
    return Meta(title=symbol, description=text, extra=extra)


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of settings: name, type without its description, default and description."""

    name: str
    type: Any
    default: Any
    meta: Meta

    @property
    def flag(self) -> str:
        """Its option on the command line."""
        return self.extra["flag"] or "--" + self.name.replace("_", "-")

    @property
    def symbol(self) -> str:
        """What stands for it in formulas and on axes."""
        return self.meta.title or self.name

    @property
    def least(self) -> Any:
        """The least that it can be: the first choice, the start of its range, False."""
        if choices := self.extra.get("choices"):
            return choices[0]
        start = self.extra.get("ge")
        return False if start is None else typed(self.name, self.type, start)

    @property
    def extra(self) -> dict[str, Any]:
        """What ``option`` was told besides help and range."""
        return self.meta.extra or {}


@functools.cache
def fields(kind: type[Any]) -> tuple[Field, ...]:
    """List the fields of ``kind`` that are described."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        Field(own.name, get_args(hint)[0], own.default, get_args(hint)[1])
        for own in dataclasses.fields(kind)
        if get_origin(hint := hints[own.name]) is Annotated
    )


_Settings = TypeVar("_Settings")
LARGEST = 10**9
"""Of a count, so that the product of two stays within 63 bits."""
MOST_PROBES = 100_000
"""A report keeps what each told, and more would be too large to be read again."""


def settled(
    kind: type[_Settings], settings: _Settings | None, changes: dict[str, Any]
) -> _Settings:
    """Make ``kind`` of settings given as such, or by their fields, or both: the fields win.

    Raises:
        InputError: ``kind`` has no such field, or a value is out of range.
    """
    known = [field.name for field in fields(kind)]
    if odd := [name for name in changes if name not in known]:
        raise unknown("setting", odd[0], known)
    base: Any = settings
    return kind(**changes) if base is None else dataclasses.replace(base, **changes)


def check(settings: Any) -> None:
    """Refuse values out of their fields' ranges; None passes.

    Raises:
        InputError: one is out of range, not finite, or not among its field's choices.
    """
    for field in fields(type(settings)):
        value: Any = getattr(settings, field.name)
        if value is None:
            continue
        choices = field.extra.get("choices")
        if choices:
            several = isinstance(value, tuple)
            items: tuple[str, ...] = value if several else (value,)
            kind = field.name.removesuffix("s" if several else "")
            for item in items:
                if item not in choices:
                    word = "choice" if "_" in kind else kind
                    raise unknown(f"{word} in `{field.name}`", item, choices)
            continue
        bounds = [
            (limit, words, fits)
            for limit, words, fits in (
                (field.extra["ge"], "at least", lambda x, y: x >= y),
                (field.extra["gt"], "above", lambda x, y: x > y),
                (_most(field, value), "at most", lambda x, y: x <= y),
                (field.extra["lt"], "below", lambda x, y: x < y),
            )
            if limit is not None
        ]
        inside = all(fits(value, limit) for limit, _, fits in bounds)
        if bounds and not (inside and -math.inf < value < math.inf):
            raise InputError(
                f"`{field.name}` is out of range",
                got=value,
                wanted=" and ".join(f"{words} {limit:,}" for limit, words, _ in bounds),
            )


def _most(field: Field, value: Any) -> float | None:
    """The end of a field's range: what is counted has one even where none is named."""
    named: float | None = field.extra["le"]
    is_count = type(value) is int and field.extra["ge"] is not None
    return LARGEST if named is None and is_count and value > LARGEST else named


def typed(name: str, kind: Any, value: object, where: str = "") -> Any:
    """Give a value of any origin its field's type; whole numbers are numbers, and lists tuples.

    Args:
        name: of the field.
        kind: its type.
        value: to be converted.
        where: what to add to the name, such as the file that the value stands in.

    Raises:
        InputError: the value is of another type.
    """
    value = getattr(value, "item", lambda: value)()  # of numpy's numbers
    try:
        return convert(value, kind)
    except ValidationError as error:
        raise InputError(
            f"`{name}`{where} has the wrong type", got=f"{value!r:.60}", wanted=_in_words(kind)
        ) from error


def _in_words(kind: Any) -> str:
    known = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    items = [item for item in get_args(kind) if item not in (type(None), ...)]
    if get_origin(kind) is tuple:
        return f"a list, each {_in_words(items[0])}"
    return _in_words(items[0]) if items else known.get(kind, "a table")
