"""The report of a run for people: curves, epochs, what was tracked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from hessdiag.metrics.metric_reading import Reading
from hessdiag.results import subject
from hessdiag.show.document import (
    STYLES,
    TITLES,
    Axis,
    Block,
    Cell,
    Chart,
    Count,
    Curve,
    Document,
    Quantity,
    Row,
    Share,
    Table,
)
from hessdiag.show.origin import origin
from hessdiag.show.wording import plus_minus
from hessdiag.training import methods
from hessdiag.training.history import Epoch
from hessdiag.training.train_result import Regulariser, TrainReport

_ACCURACIES = {
    "train_accuracy": ("train", "a"),
    "validation_accuracy": ("validation", "b"),
    "test_accuracy": ("test", "c"),
}


def document(report: TrainReport) -> Document:
    """Lay a run out."""
    blocks: list[Block] = []
    if report.epochs:
        curves = list(_curves(report.epochs))
        blocks.append(Block("Curves", curves, media=("page", "figure"), columns=2))
        blocks.append(Block("Epochs", [_epochs(report)], media=("page", "markdown")))
    if report.pac_bayes is not None:
        blocks.append(Block("PAC-Bayes, leading terms", [_bound(report)]))
    return Document(
        kind="Training",
        title=f"{subject(report)}, {_method(report.regulariser)}",
        headline=list(_headline(report)),
        facts=list(_facts(report)),
        blocks=blocks,
        footer=list(_footer(report)),
        notes=report.notes,
        origin=origin(report),
    )


def curves(epochs: Sequence[Epoch]) -> Document:
    """Lay out the curves of a run alone."""
    return Document("Training", "", [], [Block("Curves", list(_curves(epochs)), columns=2)])


def _method(regulariser: Regulariser) -> str:
    """Name a method with those options that it takes."""
    symbols = {name: option.symbol for name, option in methods.OPTIONS.items()}
    taken = regulariser.taken.items()
    return ", ".join((regulariser.name, *(f"{symbols.get(key, key)} = {x}" for key, x in taken)))


def _headline(report: TrainReport) -> Iterator[str]:
    if report.num_parameters is not None:
        yield f"{report.num_parameters:,} parameters"
    for last in report.epochs[-1:]:
        yield f"epoch {last.number}: {last.summary()}"
        best = report.best
        if best is not None and best.score is not None and best.number != last.number:
            yield f"best: {best.score:.2%} in epoch {best.number}"
        for name, reading in last.curvature.items():
            yield f"{name}: {plus_minus(reading.value, reading.error or None)}"


def _facts(report: TrainReport) -> Iterator[tuple[str, Cell]]:
    yield "method", _method(report.regulariser)
    yield "epochs", f"{len(report.epochs)} of {report.recipe.get('epochs')}"
    for last in report.epochs[-1:]:
        yield "training loss", Quantity(last.train_loss)
        for field, (label, _) in _ACCURACIES.items():
            if (accuracy := getattr(last, field)) is not None:
                yield f"{label} accuracy", Share(accuracy)
        for name, reading in last.curvature.items():
            yield name, _reading(reading)
        yield "parameters", Count(report.num_parameters)


def _footer(report: TrainReport) -> Iterator[str]:
    cost = report.cost
    if cost.seconds is None:
        return
    many = cost.num_processes or 1
    shared = f" in {many} processes" if many > 1 else ""
    yield (
        f"{cost.seconds:.1f} s, {cost.images_per_second or math.nan:.0f} images/s, peak memory "
        f"{(cost.peak_memory_bytes or 0) / 2**30:.2f} GiB, {report.recipe.get('precision')} on "
        f"{cost.device}{shared}"
    )


def _curves(epochs: Sequence[Epoch]) -> Iterator[Chart]:
    x = Axis("epoch", "linear", whole=True)
    numbers = [epoch.number for epoch in epochs]
    losses = Curve("train", numbers, [_known(epoch.train_loss) for epoch in epochs], dots=True)
    yield Chart("training loss", x, Axis("training loss"), [losses])
    columns = {field: [getattr(epoch, field) for epoch in epochs] for field in _ACCURACIES}
    accuracies = [
        Curve(label, numbers, [100 * _known(value) for value in columns[field]], style, dots=True)
        for field, (label, style) in _ACCURACIES.items()
        if any(value is not None for value in columns[field])
    ]
    if accuracies:
        yield Chart("accuracy, %", x, Axis("accuracy, %", "linear"), accuracies)
    names = dict.fromkeys(name for epoch in epochs for name in epoch.curvature)
    for quantity in dict.fromkeys(map(_quantity, names)):
        own = [name for name in names if _quantity(name) == quantity]
        label = quantity.replace("_", " ").replace("sparsity.", "sparsity ")
        yield Chart(label, x, Axis(label), [_tracked(epochs, *at) for at in enumerate(own)])


def _quantity(name: str) -> str:
    """Tell what is measured from whose it is, for the parts of the Hessian."""
    part, _, quantity = name.partition(".")
    return quantity if part in TITLES else name


def _tracked(epochs: Sequence[Epoch], place: int, name: str) -> Curve:
    """Draw a metric with its errors where it was measured."""
    seen = [(epoch.number, epoch.curvature[name]) for epoch in epochs if name in epoch.curvature]
    part = name.partition(".")[0]
    return Curve(
        TITLES.get(part, name),
        [number for number, _ in seen],
        [reading.value for _, reading in seen],
        part if part in TITLES else STYLES[place % len(STYLES)],
        errors=[reading.error or 0.0 for _, reading in seen],
        dots=True,
    )


def _epochs(report: TrainReport) -> Table:
    epochs = report.epochs
    shown = [name for name in _ACCURACIES if any(getattr(e, name) is not None for e in epochs)]
    tracked = list(dict.fromkeys(name for epoch in epochs for name in epoch.curvature))
    header = ["epoch", "loss", *(f"{_ACCURACIES[name][0]} accuracy" for name in shown), *tracked]
    rows: list[Row] = []
    for epoch in epochs:
        best = ", best" if epoch.number == report.best_epoch else ""
        cells: list[Cell] = [f"{epoch.number}{best}", Quantity(epoch.train_loss)]
        cells += [Share(getattr(epoch, name)) for name in shown]
        cells += [_reading(epoch.curvature.get(name)) for name in tracked]
        rows.append(Row(cells))
    return Table(header, rows)


def _bound(report: TrainReport) -> Table:
    bound = report.pac_bayes
    assert bound is not None
    alpha = Quantity(bound.alpha.value, bound.alpha.stderr)
    rows = [
        Row(["(1 + ε)(L̂ + √(Cαr²/n))", Quantity(bound.value)]),
        Row(["no smaller than, with 95 %", Quantity(bound.at_least)]),
        Row(["√(Cαr²/n)", Quantity(bound.complexity)]),
        Row(["L̂, over a sample of the training examples", Quantity(bound.empirical_loss)]),
        Row(["α, tr H of the example that looked sharpest", alpha]),
        Row(["C, the largest loss of one", Quantity(bound.loss_bound)]),
        Row(["r, the norm of the weights", Quantity(bound.radius)]),
        Row(["n, training examples", Count(bound.num_train)]),
        Row(["ε", Quantity(bound.epsilon)]),
    ]
    return Table(["", "value"], rows, "no bound: α and C are maxima over a sample alone")


def _reading(reading: Reading | None) -> Cell:
    return "" if reading is None else Quantity(reading.value, reading.error or None)


def _known(value: float | None) -> float:
    return math.nan if value is None else value
