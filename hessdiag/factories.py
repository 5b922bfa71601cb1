"""Objects that the user names as ``package.module:factory``."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hessdiag.errors import InputError

LIBRARIES = ("timm", "torchvision", "transformers", "peft")
"""Whose networks have names like ``timm:resnet18``, which no code of the user's stands behind."""
_PATTERN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_factory(spec: str) -> bool:
    """Tell whether ``spec`` has the form ``package.module:factory``."""
    return _PATTERN.fullmatch(spec) is not None and spec.partition(":")[0] not in LIBRARIES


def is_of_library(spec: str) -> bool:
    """Tell whether ``spec`` names a network of one of the libraries known here."""
    return spec.partition(":")[0] in LIBRARIES and ":" in spec


def chooses_activation(spec: str) -> bool:
    """Tell whether a network's activation is its own, not an option."""
    return is_factory(spec) or is_of_library(spec)


def refuse_unasked(spec: str, asked: str | None, option: str) -> None:
    """Refuse a factory that a file names: which code is run, only an option may choose.

    Raises:
        InputError: ``spec`` is a factory, and the option was not given.
    """
    if asked is None and is_factory(spec):
        raise InputError(
            "the checkpoint's metadata name code to run",
            got=repr(spec),
            hint=f"if you trust it, pass {option} {spec}",
        )


def find(spec: str, kind: str) -> Callable[..., Any]:
    """Import what ``spec`` names, without calling it.

    The current working directory becomes importable, after all that is installed.

    Args:
        spec: ``package.module:factory``.
        kind: what it is, for messages: ``"loss"``.

    Raises:
        InputError: the form is wrong, the module cannot be imported, or it has no such callable.
    """
    if not is_factory(spec):
        raise InputError(f"not a {kind} factory", got=repr(spec), wanted="package.module:factory")
    place = _working_directory()
    if place not in sys.path:
        sys.path.append(place)
    module_name, _, path = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise InputError(
            f"cannot import {module_name!r} for the {kind} factory {spec}",
            got=_describe(error),
            hint=f"the module must be installed or lie under {place}",
        ) from error
    try:
        factory = functools.reduce(getattr, path.split("."), module)
    except AttributeError as error:
        raise InputError(
            f"the {kind} factory {spec} does not exist", got=_describe(error)
        ) from error
    if not callable(factory):
        raise InputError(
            f"the {kind} factory {spec} cannot be called",
            got=type(factory).__name__,
            wanted="a function or class",
        )
    return factory


def call(
    spec: str,
    kind: str,
    arguments: Mapping[str, Any] | None = None,
    offered: Mapping[str, Any] | None = None,
) -> object:
    """Import the factory named by ``spec`` and call it.

    Args:
        spec: ``package.module:factory``; the factory is any callable, a class included.
        kind: what it makes, for messages: ``"model"``, ``"data"``.
        arguments: its arguments.
        offered: arguments for those of its parameters that bear their names; others are left out.

    Returns:
        Whatever the factory returned.

    Raises:
        InputError: the form is wrong, the module cannot be imported, it has no such callable, or
            the factory raises.
    """
    factory = find(spec, kind)
    given = {**_wanted(factory, offered or {}), **(arguments or {})}
    try:
        return factory(**given)
    except (Exception, SystemExit) as error:
        listed = ", ".join(given)
        raise InputError(
            f"the {kind} factory {spec} failed",
            got=_describe(error),
            hint=f"it was called with {listed}" if given else "it is called without arguments",
        ) from error


def arguments(texts: Iterable[str]) -> tuple[tuple[str, Any], ...]:
    """Read ``name=value`` pairs; a value is a literal of Python, true, false or none, else text.

    Raises:
        InputError: a text of another form, or a name twice.
    """
    pairs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()) or name in pairs:
            raise InputError(
                "an argument of the network is not of the form name=value",
                got=repr(text)[:200],
                wanted="num_classes=10, drop_rate=0.1, act_layer='gelu', … each name once",
            )
        pairs[name] = _literal(value)
    return tuple(pairs.items())


def _literal(text: str) -> Any:
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        raise InputError("the working directory is gone", got=error.strerror) from error


def _wanted(factory: Callable[..., object], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Choose what is offered by the names of the factory's parameters."""
    try:
        parameters = inspect.signature(factory).parameters if offered else {}
    except (TypeError, ValueError):  # of some builtins nothing is known
        return {}
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return dict(offered)
    return {name: value for name, value in offered.items() if name in parameters}


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
