"""The report of a sweep as JSON: a plain dictionary of fixed shape, without NaN or Infinity."""

from __future__ import annotations

import dataclasses
from typing import Any

from hessdiag.reports.payload import finite, origin
from hessdiag.training.trials import Cell, Sweep, Trial

SWEEP = "hessdiag.sweep/1"


def sweep_json(found: Sweep) -> dict[str, Any]:
    """Lay a sweep out as ``hessdiag.sweep/1``; what is not known, or not yet, is None."""
    config = found.trials[0].config
    recipe, best = config.recipe, found.best
    return finite(
        {
            **origin(SWEEP, None, num_parameters=None, num_samples=None),
            "kind": "sweep",
            "settings": {
                "recipe": recipe.name,
                "model": recipe.model,
                "data": recipe.data,
                "num_samples": config.num_samples,
                "epochs": recipe.epochs,
                "batch_size": recipe.batch_size,
                "lr": recipe.lr,
                "seeds": [trial.config.seed for trial in found.cells[0].trials],
            },
            "cells": [_cell(cell, best=cell.name in best) for cell in found.cells],
            "notes": notes(found),
        }
    )


def notes(found: Sweep) -> list[str]:
    """List what qualifies the numbers of a sweep: runs that failed or are not done."""
    listed = [f"{t.name} failed: {t.failure}" for t in found.trials if t.failure is not None]
    if waiting := sum(_status(trial) == "waiting" for trial in found.trials):
        listed.append(f"not finished yet: {waiting} of {len(found.trials)} runs")
    last = [trial.epochs[-1] for trial in found.trials if trial.epochs]
    if last and last[0].test_accuracy is None:
        held_out = last[0].validation_accuracy is not None
        listed.append(
            "there is no test split: accuracies are of the examples held out"
            if held_out
            else "there is no test split and nothing is held out, so there is no accuracy"
        )
    return listed


def _cell(cell: Cell, *, best: bool) -> dict[str, Any]:
    spreads = {
        "accuracy": cell.accuracy,
        "best_accuracy": cell.best_accuracy,
        "train_loss": cell.train_loss,
    }
    return {
        "name": cell.name,
        "method": cell.method,
        "activation": cell.activation,
        "beta": cell.beta,
        "strengths": dict(cell.strengths),
        "best": best,
        **{name: spread and dataclasses.asdict(spread) for name, spread in spreads.items()},
        "curvature": {name: dataclasses.asdict(spread) for name, spread in cell.curvature.items()},
        "runs": [_run(trial) for trial in cell.trials],
    }


def _run(trial: Trial) -> dict[str, Any]:
    return {
        "name": trial.name,
        "seed": trial.config.seed,
        "status": _status(trial),
        "accuracy": trial.accuracy,
        "best_accuracy": trial.best_accuracy,
        "train_loss": trial.train_loss,
        "failure": trial.failure,
    }


def _status(trial: Trial) -> str:
    if trial.failure is not None:
        return "failed"
    return "finished" if trial.epochs else "waiting"
