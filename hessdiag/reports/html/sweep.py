"""The section of a sweep: a row for each cell of the grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hessdiag.nets import activations
from hessdiag.reports.html import charts
from hessdiag.reports.html.charts import Axis
from hessdiag.reports.html.section import Section
from hessdiag.reports.sweep import SYMBOLS
from hessdiag.show.markup import NONE, Markup, block, number, table, tag


def sweep(payload: dict[str, Any]) -> Section:
    """Lay out ``hessdiag.sweep/1``."""
    settings, cells = payload["settings"], payload["cells"]
    return Section(
        "Sweep",
        f"{settings['model']} on {settings['data']}, {settings['epochs']} epochs",
        list(_facts(cells)),
        [block("Accuracy by choice", _table(cells)), block("Runs", _runs(cells))],
    )


def _facts(cells: Sequence[Any]) -> Iterator[tuple[str, object]]:
    runs = [run for cell in cells for run in cell["runs"]]
    done = sum(run["status"] == "finished" for run in runs)
    yield "runs finished", f"{done} of {len(runs)}"
    known = [cell for cell in cells if cell["accuracy"] is not None]
    for cell in sorted(known, key=lambda cell: -cell["accuracy"]["mean"])[:4]:
        yield _choice(cell), _percent(cell["accuracy"])


def _choice(cell: dict[str, Any]) -> str:
    """Name a cell by its choices."""
    name, strengths = cell["activation"], cell["strengths"]
    activation = [activations.label(name, cell["beta"])] if name else []
    values = {key: x if isinstance(x, str) else number(x) for key, x in strengths.items()}
    choices = [f"{SYMBOLS.get(key, key)} = {value}" for key, value in values.items()]
    return ", ".join((cell["method"], *choices, *activation))


def _percent(spread: dict[str, Any] | None) -> str:
    if spread is None:
        return NONE
    std = spread["std"]
    return number(100 * spread["mean"], None if std is None else 100 * std) + " %"


def _spread(spread: dict[str, Any] | None) -> str:
    return NONE if spread is None else number(spread["mean"], spread["std"])


def _reach(spread: dict[str, Any] | None) -> tuple[float, float, float] | tuple[None, None, None]:
    if spread is None:
        return None, None, None
    mean, std = 100 * spread["mean"], 100 * (spread["std"] or 0.0)
    return mean, mean - std, mean + std


def _table(cells: Sequence[Any]) -> Markup:
    tracked = list(dict.fromkeys(name for cell in cells for name in cell["curvature"]))
    ends = [end for cell in cells for end in _reach(cell["accuracy"])]
    axis: Axis = charts.linear("accuracy, %", charts.values(ends))
    rows: list[list[object]] = []
    for cell in cells:
        best = tag("small", "best of its method") if cell["best"] else ""
        rows.append(
            [
                tag("span", _choice(cell), best),
                _percent(cell["accuracy"]),
                charts.interval(*_reach(cell["accuracy"]), axis),
                _percent(cell["best_accuracy"]),
                _spread(cell["train_loss"]),
                *(_spread(cell["curvature"].get(name)) for name in tracked),
            ]
        )
    scale = f"{number(axis.low)} to {number(axis.high)} %"
    header = ["choice", "accuracy", scale, "best checkpoint", "training loss", *tracked]
    return table("Mean ± standard deviation over the seeds", header, rows)


def _runs(cells: Sequence[Any]) -> Markup:
    rows = [
        [
            tag("code", run["name"]),
            run["status"] + (f": {run['failure']}" if run["failure"] else ""),
            NONE if run["accuracy"] is None else f"{number(100 * run['accuracy'])} %",
            number(run["train_loss"]),
        ]
        for cell in cells
        for run in cell["runs"]
    ]
    header = ["run", "status", "accuracy", "training loss"]
    return tag("details", tag("summary", "Every run"), table("Every run", header, rows, words=2))
