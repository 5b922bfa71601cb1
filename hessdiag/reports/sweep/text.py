"""The report of a sweep for the terminal: one row a cell, and what went wrong."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hessdiag.errors import printable
from hessdiag.nets import activations
from hessdiag.reports.sweep import SYMBOLS
from hessdiag.reports.sweep.schema import notes
from hessdiag.reports.wording import plus_minus
from hessdiag.training.trials import Cell, Spread, Sweep


def sweep_text(found: Sweep) -> RenderableType:
    """Lay a sweep out: a headline, a row for each cell, notes."""
    remarks = [f"note: {note}" for note in notes(found)]
    return Group(
        Text(printable(headline(found)), style="bold"),
        _table(found),
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


def _table(found: Sweep) -> Table:
    options = [name for name in SYMBOLS if any(name in cell.strengths for cell in found.cells)]
    tracked = list(dict.fromkeys(name for cell in found.cells for name in cell.curvature))
    best = found.best
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for name in ("method", "activation"):
        table.add_column(name, no_wrap=True)
    for name in (
        *(SYMBOLS[option] for option in options),
        *("accuracy, %", "best epoch, %", "training loss", "seeds"),
        *map(printable, tracked),
    ):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for cell in found.cells:
        given = [f"{cell.strengths[name]:g}" if name in cell.strengths else "" for name in options]
        table.add_row(
            cell.method,
            activations.label(cell.activation, cell.beta) if cell.activation else "",
            *given,
            _percent(cell.accuracy),
            _percent(cell.best_accuracy),
            _number(cell.train_loss),
            _seeds(cell),
            *(_number(cell.curvature.get(name)) for name in tracked),
            "best" if cell.name in best else "",
            style="green" if cell.name in best else None,
        )
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
