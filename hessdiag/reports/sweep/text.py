"""The report of a sweep for the terminal: one row a cell, and what went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hessdiag.errors import printable
from hessdiag.nets import activations
from hessdiag.reports.sweep import SYMBOLS, told
from hessdiag.reports.sweep.schema import notes
from hessdiag.reports.wording import plus_minus
from hessdiag.training.trials import Cell, Spread, Sweep


def sweep_text(found: Sweep) -> RenderableType:
    """Lay a sweep out: a headline, a row for each cell, what was tracked, notes."""
    curvature = _curvature(found)
    remarks = [f"note: {note}" for note in notes(found)]
    return Group(
        Text(printable(headline(found)), style="bold"),
        _table(found, _results(found)),
        *([Text(), _table(found, curvature)] if curvature else []),
        Text("mean ± standard deviation over the seeds", style="dim"),
        *(Text(printable(remark), style="yellow") for remark in remarks),
    )


def headline(found: Sweep) -> str:
    """Name what all runs have in common in one line."""
    config = found.trials[0].config
    recipe = config.recipe
    names = {
        activations.label(cell.activation, cell.beta) for cell in found.cells if cell.activation
    }
    network = " ".join((recipe.model, *(names if len(names) == 1 else ())))
    examples = "" if config.num_samples is None else f", {config.num_samples:,} examples"
    epochs = f"{recipe.epochs} epoch{'s' if recipe.epochs != 1 else ''}"
    return f"{network} on {recipe.data}{examples}, {epochs}"


def _results(found: Sweep) -> dict[str, list[str]]:
    return {
        "accuracy, %": [_percent(cell.accuracy) for cell in found.cells],
        "best epoch, %": [_percent(cell.best_accuracy) for cell in found.cells],
        "training loss": [_number(cell.train_loss) for cell in found.cells],
        "seeds": [_seeds(cell) for cell in found.cells],
        "": ["best" if cell.name in found.best else "" for cell in found.cells],
    }


def _curvature(found: Sweep) -> dict[str, list[str]]:
    names = dict.fromkeys(name for cell in found.cells for name in cell.curvature)
    return {
        printable(name): [_number(cell.curvature.get(name)) for cell in found.cells]
        for name in names
    }


def _table(found: Sweep, columns: Mapping[str, Sequence[str]]) -> Table:
    """Lay columns out beside the choices that tell the cells apart."""
    cells = found.cells
    names = [activations.label(c.activation, c.beta) if c.activation else "" for c in cells]
    choices = {"method": [cell.method for cell in cells]}
    if len(set(names)) > 1:
        choices["activation"] = names
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for name in choices:
        table.add_column(name, no_wrap=True)
    for option, symbol in SYMBOLS.items():
        if any(option in cell.strengths for cell in cells):
            choices[symbol] = [
                told(cell.strengths[option]) if option in cell.strengths else "" for cell in cells
            ]
            table.add_column(symbol, justify="right", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    rows = zip(*choices.values(), *columns.values(), strict=True)
    for cell, row in zip(cells, rows, strict=True):
        table.add_row(*row, style="green" if cell.name in found.best else None)
    return table


def _percent(spread: Spread | None) -> str:
    if spread is None:
        return ""
    error = "" if spread.std is None else f" ± {100 * spread.std:.2f}"
    return f"{100 * spread.mean:.2f}{error}"


def _number(spread: Spread | None) -> str:
    return "" if spread is None else plus_minus(spread.mean, spread.std)


def _seeds(cell: Cell) -> str:
    """Count the runs; those that failed or are to come are told apart."""
    finished = sum(bool(trial.epochs) for trial in cell.trials)
    failed = sum(trial.failure is not None for trial in cell.trials)
    counted = str(finished) if finished == len(cell.trials) else f"{finished} of {len(cell.trials)}"
    return f"{counted}, {failed} failed" if failed else counted
