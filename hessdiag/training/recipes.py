"""Training recipes: complete, named sets of choices."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from hessdiag import factories
from hessdiag.errors import InputError, unknown


@dataclass(frozen=True)
class Recipe:
    """All that a run is made of but its seed.

    Attributes:
        name: as in ``--recipe``.
        model: network.
        activation: its activation.
        beta: the activation's β where it takes one.
        data: value of ``--data``.
        loss: name of the loss.
        epochs: passes over the training data.
        batch_size: examples a step.
        lr: peak learning rate of SGD, decayed by a cosine to zero over the run.
        momentum: Nesterov momentum.
        weight_decay: on all parameters.
    """

    name: str
    model: str
    activation: str | None
    data: str
    epochs: int
    batch_size: int
    lr: float
    beta: float | None = None
    loss: str = "cross-entropy"
    momentum: float = 0.9
    weight_decay: float = 5e-4


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="digits-wrn10-1",
            model="wrn10-1",
            activation="gelu",
            data="digits",
            epochs=15,
            batch_size=64,
            lr=0.1,
        ),
    )
}


def find(name: str) -> Recipe:
    """Look a recipe up by name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def override(recipe: Recipe, *, beta: float | None = None, **changes: object) -> Recipe:
    """Replace the fields of a recipe that are not None; a new activation drops the old one's β.

    Raises:
        InputError: a number out of range.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    if "activation" in given or beta is not None:
        given["beta"] = beta
    elif factories.is_factory(str(given.get("model", ""))):  # a factory chooses its own activation
        given |= {"activation": None, "beta": None}
    changed = dataclasses.replace(recipe, **given)
    for name, low in (("epochs", 1), ("batch_size", 2), ("lr", 0)):
        value = getattr(changed, name)
        if not low <= value <= 1e30:  # of float32
            raise InputError(f"{name} is out of range", got=value, wanted=f"at least {low}")
    return changed
