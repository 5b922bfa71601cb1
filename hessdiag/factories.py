"""Objects that the user names as ``package.module:factory``."""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys

from hessdiag.errors import InputError

_PATTERN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_factory(spec: str) -> bool:
    """Tell whether ``spec`` has the form ``package.module:factory``."""
    return _PATTERN.fullmatch(spec) is not None


def call(spec: str, kind: str) -> object:
    """Import the factory named by ``spec`` and call it without arguments.

    The current working directory becomes importable, as under ``python -m``.

    Args:
        spec: ``package.module:factory``; the factory is any callable, a class included.
        kind: what it makes, for messages: ``"model"``, ``"data"``.

    Returns:
        Whatever the factory returned.

    Raises:
        InputError: the form is wrong, the module cannot be imported, it has no such callable, or
            the factory raises.
    """
    if not is_factory(spec):
        raise InputError(f"not a {kind} factory", got=repr(spec), wanted="package.module:factory")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module_name, _, path = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise InputError(
            f"cannot import {module_name!r} for the {kind} factory {spec}",
            got=_describe(error),
            hint=f"the module must be installed or lie under {os.getcwd()}",
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
            wanted="a function or class that needs no arguments",
        )
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise InputError(
            f"the {kind} factory {spec} failed",
            got=_describe(error),
            hint="it is called without arguments",
        ) from error


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
