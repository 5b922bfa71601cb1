"""Sweeps made by hand: complete, and with runs that failed or are to come."""

from dataclasses import replace
from typing import Any

from hessdiag.metrics.metric_reading import Reading
from hessdiag.training import methods
from hessdiag.training.folder import Config
from hessdiag.training.history import Epoch
from hessdiag.training.recipes import find
from hessdiag.training.trials import Cell, Sweep, Trial

RECIPE = replace(find("digits-wrn10-1"), model="mlp-8", epochs=1)


def cell(
    method: str,
    *accuracies: float | str | None,
    activation: str = "gelu",
    beta: float | None = None,
    **strengths: Any,
) -> Cell:
    """Make a cell of runs with these accuracies; of a text for a failure, of None for none yet."""
    own = methods.find(method)()
    recipe = replace(RECIPE, method=own, activation=activation, beta=beta)
    parts = [f"{option}={value}" for option, value in (strengths | {"beta": beta}).items()]
    name = "-".join([method, activation, *parts])
    trials: list[Trial] = []
    for seed, found in enumerate(accuracies):
        config = Config(recipe, seed=seed)
        trial = Trial(f"{name}-seed={seed}", config)
        if isinstance(found, str):
            trial = replace(trial, failure=found)
        elif found is not None:
            curvature = {"hessian.trace": Reading(10 * found)}
            trial = replace(
                trial, epochs=[Epoch(1, 2, 0.1, 1 - found, 0.5, None, found, 0, curvature)]
            )
        trials.append(trial)
    return Cell(name, method, activation, beta, strengths, trials)


def complete() -> Sweep:
    """A baseline, and two methods over ρ."""
    return Sweep(
        [
            cell("none", 0.80, 0.84),
            *(cell("grad-penalty", 0.8 + rho, 0.9 + rho, rho=rho) for rho in (0, 0.01, 0.02, 0.1)),
            *(cell("sam", 0.7, 0.8, rho=rho) for rho in (0, 0.01, 0.02, 0.1)),
        ]
    )


def broken() -> Sweep:
    """One cell failed, one half failed, one is to come."""
    failure = "training diverged: not finite in step 3 of 4"
    return Sweep(
        [
            cell("sam", failure, failure, rho=1.0),
            cell("sam", 0.5, failure, rho=2.0),
            cell("sam", None, None, rho=3.0),
        ]
    )


def constant() -> Sweep:
    """Nothing varies but the method."""
    return Sweep([cell("none", 0.5, 0.6), cell("sam", 0.7, 0.9, rho=0.1)])
