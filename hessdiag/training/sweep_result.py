"""What came of a sweep, ``hessdiag.sweep/1``."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from hessdiag.codec import Count, Whole
from hessdiag.linalg.paired import Difference
from hessdiag.results import Measured
from hessdiag.training.trials import Cell, Spread, Sweep, Trial


class SweepSettings(Struct, frozen=True):
    """What all runs have in common, and their seeds."""

    recipe: str
    model: str
    data: str
    num_samples: Count | None
    epochs: Count
    batch_size: Count
    lr: float
    seeds: tuple[Whole, ...]


class SweepRun(Struct, frozen=True):
    """One run.

    Attributes:
        name: of its folder.
        seed: its seed.
        status: "finished", "failed" or "waiting".
        accuracy: after the last epoch.
        best_accuracy: of the best checkpoint.
        train_loss: in the last epoch, without any penalty.
        failure: why it cannot be finished, or None.
    """

    name: str
    seed: Whole
    status: str
    accuracy: float | None
    best_accuracy: float | None
    train_loss: float | None
    failure: str | None


class SweepCell(Struct, frozen=True):
    """One choice of everything but the seed.

    Attributes:
        name: the choices in a word.
        method: its name.
        activation: its name; None where a factory chooses.
        beta: its β, if one was chosen.
        strengths: those options of the method that the sweep gives.
        best: whether it is the most accurate of its method's cells, if several are finished.
        accuracy: after the last epoch, over the seeds.
        best_accuracy: of the best checkpoint.
        train_loss: in the last epoch.
        curvature: what was tracked after the last epoch, by name.
        runs: one a seed.
        against: name of the cell that it is compared with, see
            :meth:`hessdiag.training.trials.Sweep.reference`; None for none.
        difference: of the accuracies, its own minus that cell's, seed by seed.
    """

    name: str
    method: str
    activation: str | None
    beta: float | None
    strengths: dict[str, bool | Whole | float | str | None]
    best: bool
    accuracy: Spread | None
    best_accuracy: Spread | None
    train_loss: Spread | None
    curvature: dict[str, Spread]
    runs: tuple[SweepRun, ...]
    against: str | None = None
    difference: Difference | None = None

    @property
    def choices(self) -> dict[str, Any]:
        """All that it chooses but its activation."""
        return {**self.strengths, **({} if self.beta is None else {"beta": self.beta})}


class SweepReport(Measured, frozen=True, kw_only=True, tag="hessdiag.sweep/1"):
    """A grid of runs, done or to be done.

    Attributes:
        kind: "sweep".
        settings: what all runs have in common.
        cells: one for each choice of all but the seed.
        notes: runs that failed or are not done.
    """

    kind: str = "sweep"
    settings: SweepSettings
    cells: tuple[SweepCell, ...]
    notes: tuple[str, ...] = ()

    @property
    def runs(self) -> list[SweepRun]:
        """All runs."""
        return [run for cell in self.cells for run in cell.runs]


def report(sweep: Sweep) -> SweepReport:
    """Tell how far a sweep has come."""
    config = sweep.trials[0].config
    recipe = config.recipe
    return SweepReport(
        settings=SweepSettings(
            recipe=recipe.name,
            model=recipe.model,
            data=recipe.data,
            num_samples=config.num_samples,
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            lr=recipe.lr,
            seeds=tuple(trial.config.seed for trial in sweep.cells[0].trials),
        ),
        cells=tuple(
            _cell(cell, sweep.reference(cell), best=cell.name in sweep.best) for cell in sweep.cells
        ),
        notes=tuple(_notes(sweep)),
    )


def _cell(cell: Cell, reference: Cell | None, *, best: bool) -> SweepCell:
    return SweepCell(
        name=cell.name,
        method=cell.method,
        activation=cell.activation,
        beta=cell.beta,
        strengths=dict(cell.strengths),
        best=best,
        accuracy=cell.accuracy,
        best_accuracy=cell.best_accuracy,
        train_loss=cell.train_loss,
        curvature=cell.curvature,
        runs=tuple(map(_run, cell.trials)),
        against=reference and reference.name,
        difference=reference and Difference.between(cell.by_seed, reference.by_seed),
    )


def _run(trial: Trial) -> SweepRun:
    return SweepRun(
        name=trial.name,
        seed=trial.config.seed,
        status=_status(trial),
        accuracy=trial.accuracy,
        best_accuracy=trial.best_accuracy,
        train_loss=trial.train_loss,
        failure=trial.failure,
    )


def _status(trial: Trial) -> str:
    if trial.failure is not None:
        return "failed"
    return "finished" if trial.epochs else "waiting"


def _notes(sweep: Sweep) -> list[str]:
    """List what qualifies the numbers: runs that failed or are not done."""
    listed = [f"{t.name} failed: {t.failure}" for t in sweep.trials if t.failure is not None]
    if waiting := sum(_status(trial) == "waiting" for trial in sweep.trials):
        listed.append(f"not finished yet: {waiting} of {len(sweep.trials)} runs")
    last = [trial.epochs[-1] for trial in sweep.trials if trial.epochs]
    if last and last[0].test_accuracy is None:
        held_out = last[0].validation_accuracy is not None
        listed.append(
            "there is no test split: accuracies are of the examples held out"
            if held_out
            else "there is no test split and nothing is held out, so there is no accuracy"
        )
    return listed
