"""What came of a run, ``hessdiag.train/1``."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
from msgspec import Struct

from hessdiag.codec import Count
from hessdiag.linalg.trace import Estimate
from hessdiag.results import CheckpointOrigin, DataOrigin, Measured, ModelOrigin
from hessdiag.training import methods
from hessdiag.training.history import Epoch, Finished
from hessdiag.training.run_config import Config


class Regulariser(Struct, frozen=True):
    """The method of a run.

    Attributes:
        name: as in ``--reg``.
        strengths: its options, and what stands for those of other methods.
    """

    name: str
    strengths: dict[str, Any]

    @property
    def taken(self) -> dict[str, Any]:
        """The options that the method takes, as far as they do something."""
        known = methods.METHODS.get(self.name)
        names = known.options() if known else self.strengths
        return {name: value for name in names if (value := self.strengths.get(name))}


class PacBayesTerms(Struct, frozen=True):
    """The leading terms of the PAC-Bayes bound; see :class:`hessdiag.curvature.pac_bayes.PacBayes`.

    Attributes:
        value: (1 + ε)(L̂ + √(Cαr²/n)), as estimated.
        complexity: √(Cαr²/n).
        empirical_loss: L̂.
        alpha: tr H of the example that looked sharpest.
        loss_bound: C.
        radius: r.
        num_train: n.
        epsilon: ε.
        at_least: what the value is no smaller than, with 95 %; None in reports of hessdiag 0.1.
    """

    value: float
    complexity: float
    empirical_loss: float
    alpha: Estimate
    loss_bound: float
    radius: float
    num_train: Count
    epsilon: float
    at_least: float | None = None


class TrainCost(Struct, frozen=True):
    """What the last process that worked on the run took; None of a run that is not finished.

    Attributes:
        seconds: wall-clock time.
        images_per_second: examples of all processes over the time spent on steps.
        peak_memory_bytes: allocated on a GPU, resident on a CPU.
        num_processes: that shared the work.
        device: where.
    """

    seconds: float | None = None
    images_per_second: float | None = None
    peak_memory_bytes: Count | None = None
    num_processes: Count | None = None
    device: str | None = None


class TrainReport(Measured, frozen=True, kw_only=True, tag="hessdiag.train/1"):
    """A run: what it was made of, a row for each epoch, what it took.

    Attributes:
        regulariser: the method.
        recipe: all other choices but the seed.
        settings: of this run.
        epochs: what is known after each.
        best_epoch: that of the best checkpoint; None where nothing is scored.
        pac_bayes: terms of the bound, or None where not asked for.
        cost: time, speed, memory.
        notes: what qualifies the numbers.
    """

    regulariser: Regulariser
    recipe: dict[str, Any]
    settings: dict[str, Any]
    epochs: tuple[Epoch, ...]
    best_epoch: Count | None = None
    pac_bayes: PacBayesTerms | None = None
    cost: TrainCost = TrainCost()
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Epoch | None:
        """The epoch of the best checkpoint."""
        return next((epoch for epoch in self.epochs if epoch.number == self.best_epoch), None)


def report(finished: Finished) -> TrainReport:
    """Tell what came of a run that is finished."""
    bound = finished.pac_bayes
    made = TrainReport(
        checkpoint=CheckpointOrigin(num_parameters=finished.num_parameters),
        data=DataOrigin(num_samples=finished.num_samples),
        **_parts(finished.config),
        epochs=finished.epochs,
        best_epoch=finished.best.number if finished.best else None,
        pac_bayes=bound
        and PacBayesTerms(
            value=bound.value,
            complexity=bound.complexity,
            at_least=bound.at_least,
            **{field.name: getattr(bound, field.name) for field in dataclasses.fields(bound)},
        ),
        cost=TrainCost(
            finished.seconds,
            finished.images_per_second,
            finished.peak_memory_bytes,
            finished.num_processes,
            finished.device,
        ),
    )
    return made.of(finished.provenance)


def unfinished(config: Config, epochs: tuple[Epoch, ...]) -> TrainReport:
    """Tell what is known of a run that is under way or was stopped."""
    recipe = config.recipe
    return TrainReport(
        model=ModelOrigin(recipe.model, recipe.activation, recipe.beta),
        data=DataOrigin(recipe.data, "train", config.num_samples),
        **_parts(config),
        epochs=epochs,
        notes=(f"the run is not finished: {len(epochs)} of {recipe.epochs} epochs",),
    )


def _parts(config: Config) -> dict[str, Any]:
    """Lay the configuration out; the method's options stand beside the recipe alone."""
    recipe = {field.name: getattr(config.recipe, field.name) for field in _fields(config.recipe)}
    settings = {field.name: getattr(config, field.name) for field in _fields(config)}
    del recipe["method"], settings["recipe"]
    name = config.method.name
    return {
        "regulariser": Regulariser(name, methods.strengths(config.method)),
        "recipe": msgspec.to_builtins({**recipe, "regulariser": name, "strengths": []}),
        "settings": msgspec.to_builtins(settings),
    }


def _fields(value: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(value)
