"""Sweeps: a grid of runs over method, activation, β, strengths and seed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from hessdiag.errors import InputError
from hessdiag.jobs.task import Engine
from hessdiag.linalg import devices
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
    on_finished: Callable[[Finished], None] | None = None,
    outputs: Sequence[str] = (),
    engine: Engine | None = None,
) -> Generator[Sweep]:
    """Train what is not trained yet, each run in its own folder in ``out``.

    A run that is finished is left as it is; one that was begun goes on; one that fails is recorded
    with the reason, and the others follow.

    Args:
        sweep: as planned.
        out: folder of the sweep; made if it is not there.
        device: where to train; an engine's processes read its name, each on its own machine.
        num_workers: processes that decode streamed images.
        download: whether torchvision may download the data.
        on_step: called with the runs done and to do, and the name of the one under way.
        on_finished: called after each run that came to its end; for an engine, a function of a
            module.
        outputs: names of the files that it writes; a run without them is not finished.
        engine: what trains many runs at once; None for one after another in this process.

    Yields:
        The sweep as far as it is known: after each run, and once if there is nothing to do.

    Raises:
        InputError: the folder of a run holds one of another configuration; data that cannot be
            loaded; a folder that cannot be written.
    """
    trials = {trial.name: trial for trial in sweep.trials}
    on_step = on_step or (lambda _: None)

    def known() -> Sweep:
        cells = [
            replace(cell, trials=[trials[trial.name] for trial in cell.trials])
            for cell in sweep.cells
        ]
        return Sweep(cells)

    with folder.owned(out):
        for name, trial in trials.items():
            trials[name] = _recall(trial, out / name, outputs)
            if trials[name].epochs:
                with suppress(InputError), folder.owned(out / name):
                    pass  # what a killed process left half-written goes
        left = {name: trial for name, trial in trials.items() if not trial.epochs}
        if not left:
            yield known()
            return
        options: dict[str, Any] = {
            "outputs": outputs,
            "on_finished": on_finished,
            "device": device,
            "num_workers": num_workers,
        }
        if engine is None:
            ends = _one_by_one(left, out, on_step, download=download, **options)
        else:
            if download:
                for trial in left.values():
                    _sets.of(trial.config, download=True)
            tasks = {
                name: partial(_train, trial, out / name, **options) for name, trial in left.items()
            }
            ends = engine(tasks, lambda: on_step(_standing(left, out)))
        try:
            with closing(ends):
                for name, failure in ends:
                    trials[name] = (
                        _recall(trials[name], out / name, outputs)
                        if failure is None
                        else replace(trials[name], failure=failure)
                    )
                    yield known()
        finally:
            _sets.forget()


def _one_by_one(
    left: Mapping[str, Trial], out: Path, on_step: Watch, *, download: bool, **options: Any
) -> Generator[tuple[str, str | None]]:
    for done, (name, trial) in enumerate(left.items()):

        def report(now: Standing, done: int = done, name: str = name) -> None:
            on_step(Progress(done + now.step / now.num_steps, len(left), name))

        _sets.of(trial.config, download=download)
        yield name, _train(trial, out / name, on_step=report, **options)


def _standing(left: Mapping[str, Trial], out: Path) -> Progress:
    """Read from the runs' folders where they stand: the epochs that are done."""
    done, busy = 0.0, 0
    for name, trial in left.items():
        part = folder.count_epochs(out / name) / trial.config.recipe.epochs
        done, busy = done + part, busy + (0 < part < 1)
    return Progress(done, len(left), f"{busy} begun")


def _train(
    trial: Trial,
    place: Path,
    *,
    outputs: Sequence[str],
    on_finished: Callable[[Finished], None] | None,
    device: torch.device | str,
    **options: Any,
) -> str | None:
    """Train from the state in ``place``, or from the start; gives the reason of a failure."""
    where = devices.resolve(str(device))
    sets = _sets.of(trial.config)
    try:
        with folder.owned(place):
            if _recall(trial, place, outputs).epochs:  # others may have been here
                return None
            payload, _ = state.load(place)
            finished = loop.train(
                trial.config, *sets, out=place, device=where, payload=payload, **options
            )
            if on_finished is not None:
                on_finished(finished)
    except InputError as error:
        if isinstance(error.__cause__, OSError):  # a disk that fails is no result of a run
            raise
        return error.what if error.got is None else f"{error.what}: {error.got}"
    return None


class _Sets:
    """The data of this process's last run, which many runs share."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._key: Any = None
        self._sets: tuple[Data, Data | None] | None = None

    def of(self, config: Config, *, download: bool = False) -> tuple[Data, Data | None]:
        recipe = config.recipe
        sampled = config.num_samples or recipe.label_noise  # by the seed
        key = (
            *(recipe.data, recipe.mean, recipe.std, recipe.label_noise),
            *(recipe.init, recipe.init and recipe.model),
            *(config.data_root, config.num_samples, config.seed if sampled else None),
        )
        if self._sets is None or key != self._key:
            self.forget()  # its memory first
            self._sets, self._key = loop.load_data(config, download=download), key
        return self._sets


_sets = _Sets()


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
