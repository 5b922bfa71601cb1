"""Typed values as JSON and TOML, and back: the one place that reads files of any origin.

A type is its own schema: the fields of a frozen ``msgspec.Struct`` or dataclass are the keys, its
annotations the ranges. Keys that are not known are passed over, so that a later version's files
still read; keys with a default may be missing, so that an earlier version's do.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import tomllib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_origin, get_type_hints

import msgspec
from msgspec import inspect

from hessdiag import files
from hessdiag.errors import InputError

T = TypeVar("T")
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A whole number of a size that something can have."""
Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""Likewise, of either sign, as seeds are."""

if TYPE_CHECKING:
    Number = float
else:
    Number = float | None
"""A number that is null in JSON where it is not finite; its owner makes NaN of it again."""

MOST_VALUES = 4_000_000
"""In one text: what 64 MiB of numbers hold; `{},` takes 3 bytes there and 64 in memory."""
_MOST_DOTS = 1000
"""In a line of TOML: a key of so many parts takes tomllib minutes."""
_NUMBERS = re.compile(r"\[\n[^\[\]{}\"]+\]")  # a string holds no newline as such
_PLACE = re.compile(r"(.*?)(?: - at `(?:key in )?\$\.?(.*)`)?", re.DOTALL)
_KINDS = re.compile(r"Expected `(.*?)`(?:, got `(.*)`)?", re.DOTALL)


def encode(value: Any) -> str:
    """Write a value as JSON, ending in a newline: no NaN or Infinity; numbers take one line."""
    text = json.dumps(_plain(value), indent=2, allow_nan=False)
    return _NUMBERS.sub(lambda match: " ".join(match[0].split()), text) + "\n"


def encode_lines(values: Iterable[Any]) -> str:
    """Write each value as a line of JSON."""
    return "".join(json.dumps(_plain(value), allow_nan=False) + "\n" for value in values)


def decode(
    kind: type[T], text: str | bytes, *, what: str = "the report", partial: bool = False
) -> T:
    """Make a ``kind`` of its JSON.

    Args:
        kind: a frozen Struct or dataclass, or a union of tagged Structs.
        text: JSON of any origin.
        what: is read, for the message.
        partial: whether fields may be missing, as where it was written by hand; numbers are
            infinite then, and counts 1.

    Raises:
        InputError: it is no JSON, or a field is missing, out of range or of the wrong kind.
    """
    try:
        text = _raw(text)
        if partial:
            plain = _filled(inspect.type_info(kind), msgspec.json.decode(text))
            return msgspec.convert(plain, kind, dec_hook=_to_array)
        return msgspec.json.decode(text, type=kind, dec_hook=_to_array)
    except InputError as error:  # a type's own refusal
        raise InputError(
            f"{what} is damaged: {error.what}", got=error.got, wanted=error.wanted
        ) from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _damaged(what, error) from error


def decode_toml(kind: type[T], text: str | bytes, *, what: str = "the configuration") -> T:
    """Make a ``kind`` of its TOML.

    Raises:
        InputError: as ``decode``.
    """
    try:
        raw = _raw(text)
        if any(line.count(b".") > _MOST_DOTS for line in raw.splitlines()):  # as of one key
            raise ValueError(f"more than {_MOST_DOTS:,} dots in a line")
        plain = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{what} cannot be read as TOML",
            got=str(error)[:200],
            wanted='lines such as lr = 0.1 or data = "x"',
        ) from error
    return convert(kind, plain, what=what)


def convert(kind: type[T], plain: Any, *, what: str, strict: bool = False) -> T:
    """Make a ``kind`` of dictionaries, lists and plain values.

    Args:
        kind: as of ``decode``.
        plain: of any origin.
        what: is read, for the message.
        strict: whether keys that are not known are refused, since the rest may mean nothing
            without them.

    Raises:
        InputError: as ``decode``.
    """
    try:
        made = msgspec.convert(plain, kind, dec_hook=_to_array)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _damaged(what, error) from error
    if strict and (odd := plain.keys() - get_type_hints(kind).keys()):
        raise InputError(f"{what} holds what is not known", got=", ".join(sorted(odd))[:200])
    return made


def read(kind: type[T], path: str | os.PathLike[str], *, what: str = "the report") -> T:
    """Read a file of JSON as a ``kind``.

    Raises:
        InputError: there is no such file, it is too large, or as ``decode``.
    """
    return decode(kind, read_bytes(path, what=what), what=f"{what} {path}")


def read_bytes(path: str | os.PathLike[str], *, what: str = "the report") -> bytes:
    """Read a file that is to be decoded.

    Raises:
        InputError: there is no such file, or it is too large.
    """
    try:
        return files.read_bytes(path, files.LARGEST)
    except (OSError, ValueError) as error:  # also a name with a null byte
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{what} {path} cannot be read", got=reason) from error


def _plain(value: Any) -> Any:
    return finite(msgspec.to_builtins(value, enc_hook=to_lists))


def finite(value: Any) -> Any:
    """Copy what JSON is made of, with None for numbers that are not finite, and Unicode alone."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):  # the name of a file may hold bytes that are none
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {finite(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def _raw(text: str | bytes) -> bytes:
    """Take the bytes of a text, without the mark that some editors put before it.

    Raises:
        ValueError: decoded it would take far more memory than it has bytes.
    """
    raw = (text if isinstance(text, bytes) else text.encode()).removeprefix(codecs.BOM_UTF8)
    if sum(raw.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES:,} values")
    return raw


def to_lists(value: Any) -> Any:
    """Lay an array out, for msgspec."""
    if hasattr(value, "tolist"):  # an array
        return value.tolist()
    raise NotImplementedError(f"{type(value).__name__} has no JSON")


_MISSING: Any = object()


def _filled(kind: inspect.Type, plain: Any = _MISSING) -> Any:
    """Put something in the place of what is missing of a ``kind``, and of all within."""
    if isinstance(kind, inspect.UnionType):
        if plain is None or (plain is _MISSING and kind.includes_none):
            return None
        kind = next(one for one in kind.types if not isinstance(one, inspect.NoneType))
    if isinstance(kind, inspect.StructType | inspect.DataclassType):
        given = {} if plain is _MISSING else plain
        if not isinstance(given, dict):
            return given
        wanted = {
            f.encode_name: f.type for f in kind.fields if f.required or f.encode_name in given
        }
        return given | {name: _filled(of, given.get(name, _MISSING)) for name, of in wanted.items()}
    if isinstance(kind, inspect.DictType):
        items = plain.items() if isinstance(plain, dict) else ()
        filled = {key: _filled(kind.value_type, value) for key, value in items}
        return filled if plain is _MISSING or filled else plain
    if isinstance(kind, inspect.VarTupleType | inspect.ListType):
        items = plain if isinstance(plain, list) else ()
        filled = [_filled(kind.item_type, item) for item in items]
        return filled if plain is _MISSING or filled else plain
    if plain is not _MISSING:
        return plain
    if isinstance(kind, inspect.LiteralType):
        return kind.values[0]
    blanks: dict[type, Any] = {
        inspect.FloatType: math.inf,
        inspect.IntType: 1,
        inspect.BoolType: False,
    }
    return blanks.get(type(kind), "")


def _to_array(kind: Any, value: Any) -> Any:
    """Make an array of lists of numbers; null was a number that is not finite."""
    import numpy as np

    if (get_origin(kind) or kind) is not np.ndarray:
        raise TypeError("it is not read from a file")
    nested = isinstance(value, list) and value and isinstance(value[0], list)
    try:
        rows = msgspec.convert(value, list[list[float | None]] if nested else list[float | None])
        return np.array(rows, dtype=np.float64)
    except ValueError as error:  # also rows of different lengths; what msgspec says lacks the place
        raise TypeError("no array of numbers") from error


def _damaged(what: str, error: Exception) -> InputError:
    """Say in our words what msgspec found, and where."""
    if isinstance(error, RecursionError):
        return InputError(f"{what} is damaged", got="lists within lists without end")
    message, place = _PLACE.fullmatch(str(error)).groups()  # type: ignore[union-attr]
    at = f": {place}" if place else ""
    if (kinds := _KINDS.fullmatch(message)) is not None:
        return InputError(f"{what} is damaged{at}", got=kinds[2], wanted=kinds[1])
    return InputError(f"{what} is damaged{at}", got=message[:200])
