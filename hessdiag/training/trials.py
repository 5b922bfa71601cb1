"""What the runs of a sweep came to: cells of a grid, and how they vary over the seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from hessdiag.codec import Count
from hessdiag.metrics.metric_reading import Reading
from hessdiag.training.folder import Config
from hessdiag.training.history import Epoch


class Spread(Struct, frozen=True):
    """How a number varies over the seeds.

    Attributes:
        mean: its mean.
        std: its standard deviation, of a sample; None for one seed.
        count: seeds of which it is known.
    """

    mean: float
    std: float | None
    count: Count

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Summarise the values that are known and finite; None if there are none."""
        known = [value for value in values if value is not None and math.isfinite(value)]
        if not known:
            return None
        std = statistics.stdev(known) if len(known) > 1 else None
        return cls(statistics.fmean(known), std, len(known))


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        name: of its folder.
        config: all that it is made of.
        epochs: what is known after each, once it is finished.
        failure: why it cannot be finished, or None.
    """

    name: str
    config: Config
    epochs: Sequence[Epoch] = ()
    failure: str | None = None

    @property
    def accuracy(self) -> float | None:
        """On the test split after the last epoch; without such a split, on what is held out."""
        return _tested(self.epochs[-1]) if self.epochs else None

    @property
    def best_accuracy(self) -> float | None:
        """The same, of the best checkpoint: chosen by what is held out, if anything is."""
        best = max(self.epochs, key=lambda epoch: epoch.score or 0.0, default=None)
        return None if best is None else _tested(best)

    @property
    def train_loss(self) -> float | None:
        """Over the last epoch, without any penalty."""
        return self.epochs[-1].train_loss if self.epochs else None

    @property
    def curvature(self) -> dict[str, Reading]:
        """The metrics tracked, after the last epoch."""
        return self.epochs[-1].curvature if self.epochs else {}


@dataclass(frozen=True)
class Cell:
    """One choice of everything but the seed.

    Attributes:
        name: the choices in a word.
        method: name of the regulariser.
        activation: its name; None where a factory chooses.
        beta: its β, if one was chosen.
        strengths: those options of the regulariser that the sweep gives.
        trials: its runs, one a seed.
    """

    name: str
    method: str
    activation: str | None
    beta: float | None
    strengths: Mapping[str, Any]
    trials: Sequence[Trial]

    @property
    def accuracy(self) -> Spread | None:
        """After the last epoch, over the seeds."""
        return Spread.of(trial.accuracy for trial in self.trials)

    @property
    def by_seed(self) -> dict[int, float | None]:
        """Accuracy after the last epoch, by seed."""
        return {trial.config.seed: trial.accuracy for trial in self.trials}

    @property
    def best_accuracy(self) -> Spread | None:
        """Of the best checkpoint, over the seeds."""
        return Spread.of(trial.best_accuracy for trial in self.trials)

    @property
    def train_loss(self) -> Spread | None:
        """In the last epoch, over the seeds."""
        return Spread.of(trial.train_loss for trial in self.trials)

    @property
    def curvature(self) -> dict[str, Spread]:
        """What was tracked after the last epoch, by name, over the seeds."""
        readings: dict[str, list[float | None]] = {}
        for trial in self.trials:
            for name, reading in trial.curvature.items():
                readings.setdefault(name, []).append(reading.value)
        spreads = {name: Spread.of(values) for name, values in readings.items()}
        return {name: spread for name, spread in spreads.items() if spread is not None}


@dataclass(frozen=True)
class Sweep:
    """A grid of runs, done or to be done.

    Attributes:
        cells: at least one; all have the same seeds.
    """

    cells: Sequence[Cell]

    @property
    def trials(self) -> list[Trial]:
        """All runs, seed by seed, so that a first picture is there early."""
        return [
            trial
            for of_seed in zip(*(c.trials for c in self.cells), strict=True)
            for trial in of_seed
        ]

    def reference(self, cell: Cell) -> Cell | None:
        """Find what a cell is compared with: no regulariser, in the same network; else the first.

        The network may be the same but for β, or another where there is nothing nearer. None for
        what all others are compared with.
        """
        plain = [other for other in self.cells if other.method == "none"]
        near = [other for other in plain if other.activation == cell.activation]
        same = [other for other in near if other.beta == cell.beta]
        found = (*same, *near, *plain, self.cells[0])[0]
        return None if found is cell else found

    @property
    def best(self) -> set[str]:
        """Name of each method's most accurate cell, where several have finished all their runs."""
        finished: dict[str, dict[str, float]] = {}
        for cell in self.cells:
            accuracy = cell.accuracy
            if accuracy is not None and accuracy.count == len(cell.trials):
                finished.setdefault(cell.method, {})[cell.name] = accuracy.mean
        return {max(means, key=means.__getitem__) for means in finished.values() if len(means) > 1}


def _tested(epoch: Epoch) -> float | None:
    return epoch.validation_accuracy if epoch.test_accuracy is None else epoch.test_accuracy
