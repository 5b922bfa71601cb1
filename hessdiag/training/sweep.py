"""Sweeps: a grid of runs over method, activation, β, strengths and seed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby, product
from pathlib import Path
from typing import Any

import torch

from hessdiag.errors import InputError
from hessdiag.metadata import ModelSpec
from hessdiag.nets import activations, models
from hessdiag.progress import Progress, Watch
from hessdiag.training import folder, loop, methods, state
from hessdiag.training.configure import configure
from hessdiag.training.feeds import Data
from hessdiag.training.folder import Config
from hessdiag.training.history import Epoch, Finished, Standing
from hessdiag.training.trials import Cell, Sweep, Trial


def plan(
    recipe: str,
    *,
    seeds: Sequence[int],
    regularisers: Sequence[str] = (),
    activation_names: Sequence[str] = (),
    betas: Sequence[float] = (),
    strengths: Mapping[str, Sequence[Any]],
    changes: Mapping[str, Any],
    **options: Any,
) -> Sweep:
    """Lay out methods × activations × β's × strengths × seeds, and check every cell of it.

    A method takes those strengths that it knows, and an activation a β if it has one.

    Args:
        recipe: name.
        seeds: at least one.
        regularisers: names; none for the recipe's own.
        activation_names: likewise.
        betas: values of β; none for the activation's own.
        strengths: by option of the regulariser, the values that it takes in turn.
        changes: fields of the recipe that are the same for all runs.
        **options: more for :func:`hessdiag.training.configure.configure`.

    Raises:
        InputError: a strength or a β that nothing here takes; a cell that makes no run.
    """
    first = {"regulariser": next(iter(regularisers), None)}
    base = configure(recipe, changes={**changes, **first}, strengths={}, **options)
    regularisers = regularisers or [base.method.name]
    own_activation = base.recipe.activation
    _check_all_is_taken(regularisers, activation_names or [own_activation], betas, strengths)
    cells: dict[str, Cell] = {}
    for method, activation in product(regularisers, activation_names or [None]):
        known = methods.find(method).options()
        taken = {option: values for option, values in strengths.items() if option in known}
        own_betas = betas if betas and _takes_beta(activation or own_activation) else [None]
        for beta, *values in product(own_betas, *taken.values()):
            given = dict(zip(taken, values, strict=True))
            chosen = {"regulariser": method, "activation": activation, "beta": beta}
            configs = [
                configure(
                    recipe, changes={**changes, **chosen}, strengths=given, seed=seed, **options
                )
                for seed in dict.fromkeys(seeds)
            ]
            cell = _cell(configs, given)
            cells[cell.name] = cell
    for spec in {_network(cell.trials[0].config) for cell in cells.values()}:
        if spec.activation is not None:  # a factory may do anything, and is the same for all cells
            models.skeleton(spec)
    return Sweep(list(cells.values()))


def run(
    sweep: Sweep,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    download: bool = False,
    on_step: Watch | None = None,
    on_finished: Callable[[Finished], None] = lambda _: None,
    outputs: Sequence[str] = (),
) -> Generator[Sweep]:
    """Train what is not trained yet, each run in its own folder in ``out``.

    A run that is finished is left as it is; one that was begun goes on; one that fails is recorded
    with the reason, and the others follow.

    Args:
        sweep: as planned.
        out: folder of the sweep; made if it is not there.
        device: where to train.
        num_workers: processes that decode streamed images.
        download: whether torchvision may download the data.
        on_step: called with the runs done and to do, and the name of the one under way.
        on_finished: called after each run that came to its end.
        outputs: names of the files that it writes; a run without them is not finished.

    Yields:
        The sweep as far as it is known: after each run, and once if there is nothing to do.

    Raises:
        InputError: the folder of a run holds one of another configuration; data that cannot be
            loaded; a folder that cannot be written.
    """
    trials = {trial.name: trial for trial in sweep.trials}

    def known() -> Sweep:
        cells = [
            replace(cell, trials=[trials[trial.name] for trial in cell.trials])
            for cell in sweep.cells
        ]
        return Sweep(cells)

    left: list[Trial] = []
    done = 0

    def report(standing: Standing) -> None:
        if on_step is not None:
            part = standing.step / standing.num_steps
            on_step(Progress(done + part, len(left), left[done].name))

    with folder.owned(out):
        for name, trial in trials.items():
            trials[name] = _recall(trial, out / name, outputs)
            if trials[name].epochs:
                with suppress(InputError), folder.owned(out / name):
                    pass  # what a killed process left half-written goes
        left += [trial for trial in trials.values() if not trial.epochs]
        if not left:
            yield known()
        for _, sharing in groupby(left, key=lambda trial: _sample(trial.config)):
            group = list(sharing)
            sets = loop.load_data(group[0].config, download=download)
            for trial in group:
                trials[trial.name] = _train(
                    trial,
                    out / trial.name,
                    *sets,
                    on_finished,
                    outputs,
                    device=device,
                    num_workers=num_workers,
                    on_step=report,
                )
                done += 1
                yield known()


def _train(
    trial: Trial,
    place: Path,
    data: Data,
    test: Data | None,
    on_finished: Callable[[Finished], None],
    outputs: Sequence[str],
    **options: Any,
) -> Trial:
    """Train from the state in ``place``, or from the start; a failure is a result."""
    try:
        with folder.owned(place):
            if (known := _recall(trial, place, outputs)).epochs:  # others may have been here
                return known
            payload, _ = state.load(place)
            on_finished(loop.train(trial.config, data, test, out=place, payload=payload, **options))
    except InputError as error:
        if isinstance(error.__cause__, OSError):  # a disk that fails is no result of a run
            raise
        reason = error.what if error.got is None else f"{error.what}: {error.got}"
        return replace(trial, failure=reason)
    return _recall(trial, place, outputs)


def _recall(trial: Trial, place: Path, outputs: Sequence[str]) -> Trial:
    if not folder.is_finished(place, trial.config, outputs):
        return trial
    return replace(trial, epochs=[Epoch.from_row(row) for row in folder.read_metrics(place)])


def _cell(configs: Sequence[Config], given: Mapping[str, Any]) -> Cell:
    """Name a choice and its runs, as grad-penalty-rho=0.1-gelu and …-seed=0."""
    recipe = configs[0].recipe
    options = [
        f"{methods.OPTIONS[option].flag.removeprefix('--')}={value}".removesuffix(".0")
        for option, value in given.items()
    ]
    beta = None if recipe.beta is None else f"beta={recipe.beta}".removesuffix(".0")
    name = "-".join(filter(None, (recipe.method.name, *options, recipe.activation, beta)))
    trials = [Trial(f"{name}-seed={config.seed}", config) for config in configs]
    return Cell(name, recipe.method.name, recipe.activation, recipe.beta, given, trials)


def _network(config: Config) -> ModelSpec:
    """Describe the network but for the data's sizes, of which any will do for a check."""
    recipe = config.recipe
    return ModelSpec(recipe.model, recipe.activation, recipe.beta, 10, (3, 32, 32))


def _sample(config: Config) -> int | None:
    """Tell apart the random samples and labels of the data; runs without them share it."""
    return config.seed if config.num_samples or config.recipe.label_noise else None


def _takes_beta(activation: str | None) -> bool:
    entry = activations.ACTIVATIONS.get(activation or "")
    return entry is not None and entry.takes_beta


def _check_all_is_taken(
    regularisers: Sequence[str],
    activation_names: Sequence[str | None],
    betas: Sequence[float],
    strengths: Mapping[str, Any],
) -> None:
    taken = {option for name in regularisers for option in methods.find(name).options()}
    for option in strengths:
        if option not in taken:
            raise InputError(
                f"no method of the sweep takes `{option}`",
                got=", ".join(regularisers),
                hint=f"leave `{option}` out, or choose a --reg that takes it",
            )
    if betas and not any(map(_takes_beta, activation_names)):
        raise InputError(
            "no activation of the sweep takes a β",
            got=", ".join(name or "a factory's own" for name in activation_names),
            hint="leave --beta out, or choose an --activation that takes one, such as beta_gelu",
        )
