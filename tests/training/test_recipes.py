"""Recipes and what may be changed of them."""

from typing import Any

import pytest

from hessdiag.errors import InputError
from hessdiag.training import recipes

RECIPE = recipes.find("digits-wrn10-1")


def test_every_recipe_goes_by_its_name():
    assert all(recipes.find(name).name == name for name in recipes.RECIPES)


def test_unknown_recipes_suggest_the_nearest():
    with pytest.raises(InputError, match="did you mean digits-wrn10-1"):
        recipes.find("digit-wrn-10-1")


def test_nothing_given_changes_nothing():
    assert recipes.override(RECIPE, epochs=None, lr=None, beta=None) == RECIPE


def test_what_is_given_replaces():
    changed = recipes.override(RECIPE, epochs=3, lr=0.5, data="x.npz", model="mlp-4", batch_size=8)
    assert (changed.epochs, changed.lr, changed.data) == (3, 0.5, "x.npz")
    assert (changed.model, changed.batch_size, changed.name) == ("mlp-4", 8, RECIPE.name)
    assert changed.activation == RECIPE.activation


def test_a_new_activation_drops_the_old_beta():
    sharp = recipes.override(RECIPE, activation="beta_gelu", beta=4.0)
    assert (sharp.activation, sharp.beta) == ("beta_gelu", 4.0)
    assert recipes.override(sharp, activation="relu").beta is None
    assert recipes.override(sharp, beta=2.0).beta == 2.0
    assert recipes.override(sharp, epochs=2).beta == 4.0


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"lr": -0.1},
        {"lr": float("nan")},
        {"lr": float("inf")},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(change: dict[str, Any]):
    (name,) = change
    with pytest.raises(InputError, match=f"{name} is out of range"):
        recipes.override(RECIPE, **change)
