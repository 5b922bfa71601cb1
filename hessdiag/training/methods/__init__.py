"""Methods of training by name: each a dataclass of options that takes a step.

Importing them does not import torch, so that the command line can list their options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hessdiag.errors import InputError, unknown
from hessdiag.settings import Field
from hessdiag.training.methods.ascent import ASAM, SAM, USAM
from hessdiag.training.methods.method import Method
from hessdiag.training.methods.noise import NSO, WeightNoise
from hessdiag.training.methods.plain import GradientPenalty, Plain
from hessdiag.training.methods.trace_penalties import GNTrace, HessianTrace, NMETrace, renamed

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        *(Plain, GradientPenalty, SAM, USAM, ASAM, WeightNoise, NSO),
        *(HessianTrace, GNTrace, NMETrace),
    )
}
_STRENGTHS = ("rho", "sigma2", "kappa")
_FOUND = {name: field for method in METHODS.values() for name, field in method.options().items()}
OPTIONS: dict[str, Field] = {name: _FOUND[name] for name in (*_STRENGTHS, *_FOUND)}
"""The options of all methods, strengths first; one name means one thing in all that take it."""
KEYS: dict[str, Any] = {name: option.type for name, option in OPTIONS.items()}
"""Types of the options by the names that a file may use, those of 0.1 among them."""
KEYS["straight_through"] = bool
SURROGATES = ("augmented_relu", "diminished_gelu")
"""Activations without a third derivative."""


def find(name: str) -> type[Method]:
    """Look a method up by name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in METHODS:
        raise unknown("regulariser", name, METHODS)
    return METHODS[name]


def takers(option: str) -> list[str]:
    """Name the methods that take an option."""
    return [name for name, method in METHODS.items() if option in method.options()]


def settle(
    name: str,
    *,
    base: Method | None = None,
    activation: str | None = None,
    precision: str = "float32",
    **given: Any,
) -> Method:
    """Make the method ``name`` with the options given, None being not given.

    Args:
        name: of the method.
        base: what gives the options that are not given, if it is such a method; else the defaults.
        activation: of the network, to refuse those without the derivatives that are needed.
        precision: of the network, to refuse second derivatives in bf16.
        **given: options of the method.

    Raises:
        InputError: unknown method; an option that it does not take; a value out of range; an
            activation without a third derivative, or second derivatives in bf16.
    """
    method = find(name)
    chosen = {key: value for key, value in renamed(given).items() if value is not None}
    for key, value in chosen.items():
        if key not in OPTIONS:
            raise unknown("option of a regulariser", key, OPTIONS)
        if key not in method.options():
            raise InputError(
                f"the regulariser {name} does not take `{key}`",
                got=f"`{key}` {value}",
                wanted=", ".join(f"`{taken}`" for taken in method.options()) or "no options",
            )
    if method.third_derivative and activation in SURROGATES:
        raise InputError(
            f"the regulariser {name} needs the third derivative of the activation",
            got=f"{activation}, which has none",
            hint="choose gelu, relu or another activation",
        )
    if method.second_derivative and precision != "float32":
        raise InputError(
            f"the regulariser {name} needs second derivatives",
            got=f"`precision` {precision}, too coarse for them",
            hint="use `precision` float32",
        )
    inherited = base.values if isinstance(base, method) else {}
    if {"sigma2", "kappa"} & chosen.keys():  # each says the other
        inherited = {key: inherited[key] for key in inherited if key not in ("sigma2", "kappa")}
    return method(**inherited | chosen)


def strengths(method: Method) -> dict[str, Any]:
    """List the options of all methods, as reports do; those not taken are the least they can be."""
    values = {name: option.least for name, option in OPTIONS.items()} | method.values
    return {**values, "straight_through": values["labels"] == "straight-through"}


def remembered(name: str, table: Mapping[str, Any]) -> Method:
    """Make a method from a table of strengths, also one that 0.1 wrote.

    Raises:
        InputError: unknown method; a value out of range.
    """
    method = find(name)
    options = {key: value for key, value in renamed(table).items() if key in method.options()}
    if "kappa" in options:  # 0.1 left the default of σ² beside a κ that was given
        options.pop("sigma2", None)
    return method(**options)
