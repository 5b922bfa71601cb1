"""From what a user asks for to a run's configuration: recipe, then file, then options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hessdiag.errors import InputError
from hessdiag.training import recipes
from hessdiag.training.folder import Config

FRESH = "fresh"
"""Stands for no weights to start from, where a recipe has some."""


def configure(
    recipe: str,
    *,
    file: str | None = None,
    changes: Mapping[str, Any],
    strengths: Mapping[str, Any],
    **own: Any,
) -> Config:
    """Complete a recipe by a file and by options, which win over the file; None is not given.

    Args:
        recipe: name.
        file: TOML file of fields of the recipe and options of the method, or None.
        changes: fields of the recipe, and ``regulariser`` for the name of the method.
        strengths: options of the method.
        **own: further fields of the configuration.

    Raises:
        InputError: an unknown name, a value out of range, or choices that do not go together.
    """
    from_file = recipes.read_config(file) if file is not None else {}
    options = from_file.pop("strengths", {}) | _given(strengths)
    chosen = recipes.override(
        recipes.find(recipe), strengths=options, **(from_file | _given(changes))
    )
    if chosen.init == FRESH:
        chosen = replace(chosen, init=None)
    if own.get("compile") and chosen.method.second_derivative:
        raise InputError(
            "a compiled network has no second derivative",
            got=f"--compile with the regulariser {chosen.method.name}, which needs one",
            hint="leave --compile out",
        )
    return Config(chosen, **_given(own))


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
