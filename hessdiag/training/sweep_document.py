"""The report of a sweep for people: accuracy by choice, a row for each cell of the grid."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hessdiag.nets import activations
from hessdiag.show.document import (
    STYLES,
    Axis,
    Bars,
    Block,
    Cell,
    Chart,
    Code,
    Curve,
    Document,
    Interval,
    Quantity,
    Row,
    Share,
    Table,
)
from hessdiag.show.origin import origin
from hessdiag.training.sweep_panels import SYMBOLS, Panel, arrange, told
from hessdiag.training.sweep_result import SweepCell, SweepReport
from hessdiag.training.trials import Spread

_DECADE = 10.0


def document(report: SweepReport) -> Document:
    """Lay a sweep out."""
    blocks = [
        Block("Accuracy by choice", [_table(report)]),
        Block("Accuracy over what varies", _charts(report), media=("page", "figure")),
    ]
    if any(cell.curvature for cell in report.cells):
        blocks.insert(1, Block("Tracked", [_tracked(report)]))
    blocks.append(Block("Runs", [_runs(report)], media=("page",)))
    return Document(
        kind="Sweep",
        title=_title(report),
        facts=list(_facts(report)),
        blocks=blocks,
        footer=[
            "mean ± standard deviation over the seeds",
            "gain: accuracy minus that without a regulariser, or of the first row, seed by seed; ± "
            "standard error, and Student's interval",
        ],
        notes=report.notes,
        origin=origin(report),
    )


def _title(report: SweepReport) -> str:
    """Name what all runs have in common in one line."""
    settings = report.settings
    names = {
        activations.label(cell.activation, cell.beta) for cell in report.cells if cell.activation
    }
    network = " ".join((settings.model, *(names if len(names) == 1 else ())))
    examples = "" if settings.num_samples is None else f", {settings.num_samples:,} examples"
    epochs = f"{settings.epochs} epoch{'s' if settings.epochs != 1 else ''}"
    return f"{network} on {settings.data}{examples}, {epochs}"


def _facts(report: SweepReport) -> Iterator[tuple[str, Cell]]:
    done = sum(run.status == "finished" for run in report.runs)
    yield "runs finished", f"{done} of {len(report.runs)}"
    known = [cell for cell in report.cells if cell.accuracy is not None]
    for cell in sorted(known, key=lambda cell: -cell.accuracy.mean if cell.accuracy else 0.0)[:4]:
        yield ", ".join(map(str, _choices(report, cell))), _share(cell.accuracy)


def _choices(report: SweepReport, cell: SweepCell) -> list[str]:
    strengths = [f"{SYMBOLS.get(key, key)} = {told(x)}" for key, x in cell.strengths.items()]
    label = activations.label(cell.activation, cell.beta) if cell.activation else ""
    several = len({(c.activation, c.beta) for c in report.cells}) > 1
    return [cell.method, *strengths, *([label] if label and several else [])]


def _told_apart(report: SweepReport) -> tuple[list[str], dict[str, list[Cell]]]:
    """Give the columns of choices that tell cells apart, and each cell's entries."""
    options = [name for name in SYMBOLS if any(name in cell.strengths for cell in report.cells)]
    labels = {
        cell.name: activations.label(cell.activation, cell.beta) if cell.activation else ""
        for cell in report.cells
    }
    several = len(set(labels.values())) > 1
    header = ["method", *(["activation"] if several else []), *(SYMBOLS[name] for name in options)]
    rows: dict[str, list[Cell]] = {}
    for cell in report.cells:
        strengths = (
            told(cell.strengths[name]) if name in cell.strengths else "" for name in options
        )
        rows[cell.name] = [cell.method, *([labels[cell.name]] if several else []), *strengths]
    return header, rows


def _table(report: SweepReport) -> Table:
    header, rows = _told_apart(report)
    means = [cell.accuracy.mean for cell in report.cells if cell.accuracy]
    table: list[Row] = []
    for cell in report.cells:
        mean = cell.accuracy.mean if cell.accuracy else None
        cells: list[Cell] = [_share(cell.accuracy), *_gain(cell), _share(cell.best_accuracy)]
        cells += [_number(cell.train_loss), _seeds(cell), "best" if cell.best else ""]
        bar = Bars([("b", mean)], 0.0, max(means, default=1.0))
        table.append(Row([*rows[cell.name], *cells, bar], "best" if cell.best else ""))
    columns = ["accuracy", "gain, points", "95 %", "best epoch", "training loss", "seeds", "", ""]
    return Table([*header, *columns], table, words=2 if "activation" in header else 1)


def _tracked(report: SweepReport) -> Table:
    header, rows = _told_apart(report)
    names = list(dict.fromkeys(name for cell in report.cells for name in cell.curvature))
    table = [
        Row(
            [*rows[cell.name], *(_number(cell.curvature.get(name)) for name in names)],
            "best" if cell.best else "",
        )
        for cell in report.cells
    ]
    return Table([*header, *names], table, words=2 if "activation" in header else 1)


def _charts(report: SweepReport) -> list[Chart]:
    """Draw accuracy over each choice that varies; what has none is a line across."""
    panels, constant = arrange(report.cells)
    if not panels:
        curves = [
            Curve(label, [place], [100 * s.mean], _style(place), errors=[_bar(s)], dots=True)
            for place, (label, cell) in enumerate(constant.items())
            for s in (cell.accuracy or Spread(math.nan, None, 0),)
        ]
        across = Axis("cell", "linear", whole=True)
        return [Chart("accuracy", across, Axis("accuracy, %", "linear"), curves)]
    charts: list[Chart] = []
    for panel in panels:
        curves = [
            _curve(panel, label, cells, place)
            for place, (label, cells) in enumerate(panel.curves.items())
        ]
        ends = [panel.values[0], panel.values[-1]]
        curves += [
            Curve(label, ends, [100 * cell.accuracy.mean] * 2, f"{_style(place)} dashed")
            for place, (label, cell) in enumerate(constant.items(), len(curves))
            if cell.accuracy
        ]
        title = f"accuracy over {SYMBOLS[panel.axis]}"
        charts.append(Chart(title, _axis(panel), Axis("accuracy, %", "linear"), curves))
    return charts


def _curve(panel: Panel, label: str, cells: list[SweepCell], place: int) -> Curve:
    known = [(cell.choices[panel.axis], s) for cell in cells if (s := cell.accuracy)]
    x, means = [value for value, _ in known], [100 * spread.mean for _, spread in known]
    errors = [_bar(spread) for _, spread in known]
    return Curve(label, x, means, _style(place), errors=errors, dots=True)


def _axis(panel: Panel) -> Axis:
    """Choose decades for values that span one; a zero among them lies where they begin."""
    label, values = SYMBOLS[panel.axis], panel.values
    above = [value for value in values if value > 0]
    if not above or above[-1] < _DECADE * above[0]:
        return Axis(label, "linear")
    if len(above) == len(values):
        return Axis(label, "log")
    return Axis(label, "symlog", values[0], values[-1], threshold=above[0] / 2)


def _style(place: int) -> str:
    return STYLES[place % len(STYLES)]


def _bar(spread: Spread) -> float:
    return 100 * (spread.std or 0.0)


def _runs(report: SweepReport) -> Table:
    rows = [
        Row(
            [
                Code(run.name),
                run.status + (f": {run.failure}" if run.failure else ""),
                Share(run.accuracy),
                Quantity(run.train_loss),
            ]
        )
        for run in report.runs
    ]
    return Table(["run", "status", "accuracy", "training loss"], rows, "every run", 2, folded=True)


def _share(spread: Spread | None) -> Cell:
    return "" if spread is None else Share(spread.mean, spread.std)


def _gain(cell: SweepCell) -> tuple[Cell, Cell]:
    """Show the paired difference in points of accuracy."""
    found = cell.difference
    if found is None:
        return "", ""
    error = None if found.stderr is None else 100 * found.stderr
    ends = found.interval and (100 * found.interval[0], 100 * found.interval[1])
    return Quantity(100 * found.mean, error), Interval(ends)


def _number(spread: Spread | None) -> Cell:
    return "" if spread is None else Quantity(spread.mean, spread.std)


def _seeds(cell: SweepCell) -> str:
    """Count the runs; those that failed or are to come are told apart."""
    finished = sum(run.status == "finished" for run in cell.runs)
    failed = sum(run.status == "failed" for run in cell.runs)
    counted = str(finished) if finished == len(cell.runs) else f"{finished} of {len(cell.runs)}"
    return f"{counted}, {failed} failed" if failed else counted
