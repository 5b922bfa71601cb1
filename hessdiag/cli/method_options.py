"""Options of the methods of training: one for each field of a method, and of a sweep, a list."""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args

from hessdiag.errors import InputError
from hessdiag.settings import Field, option
from hessdiag.training import methods


def split(text: str | None, name: str, kind: Any = str) -> list[Any]:
    """Read a list of the field ``name``, separated by commas; None is an empty one."""
    try:
        return [kind(item.strip()) for item in text.split(",")] if text is not None else []
    except ValueError:
        wanted = "whole numbers" if kind is int else "numbers"
        raise InputError(
            f"`{name}` is no list of {wanted}",
            got=repr(text),
            wanted=f"{wanted} with commas between",
        ) from None


def several(given: Any) -> dict[str, list[Any]]:
    """Read the lists of a sweep's options that are given."""
    lists = {name: getattr(given, name) for name in vars(given)}
    return {
        name: split(text, name, _bare(methods.OPTIONS[name]))
        for name, text in lists.items()
        if text is not None
    }


def _bare(field: Field) -> Any:
    return (*get_args(field.type), field.type)[0]


def _gathered(name: str, *, lists: bool = False) -> Any:
    """Make a dataclass of the methods' options, all None unless given; a list has no flags."""
    described: list[tuple[str, Any, Any]] = []
    for field in methods.OPTIONS.values():
        kind = _bare(field)
        if lists and kind is bool:
            continue
        text = f"{field.symbol}: values of it, with commas between."
        if not lists:
            known = field.meta.title
            text = f"{known}: {field.meta.description}" if known else str(field.meta.description)
        meta = option(f"{text} Of {', '.join(methods.takers(field.name))}.", flag=field.flag)
        described.append((field.name, Annotated[(str if lists else kind) | None, meta], None))
    return make_dataclass(name, described, frozen=True)


if TYPE_CHECKING:

    class StrengthOptions:
        """The options of all methods."""

    class StrengthLists:
        """Lists of them."""
else:
    StrengthOptions = _gathered("StrengthOptions")
    StrengthLists = _gathered("StrengthLists", lists=True)
