"""The command line's table of commands. Nothing here or in a command's signature imports torch."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import typer

from hessdiag import __version__
from hessdiag.cli import (
    compare,
    demo,
    doctor,
    gate,
    landscape,
    options,
    report,
    sensing,
    sparsity,
    spectrum,
    sweep,
    train,
)
from hessdiag.errors import InputError

app = typer.Typer(
    name="hessdiag",
    help="Hessian-decomposition diagnostics of neural networks: the Hessian H = G + N of a loss, "
    "its Gauss-Newton part G and its Nonlinear Modeling Error N, with error bars.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes around the help would double the time it takes to appear
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)


def _with_reader(command: Callable[..., None]) -> Callable[..., None]:
    """Let a reader who has left, as in ``| head``, be a failure like any other."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except BrokenPipeError as error:
            with suppress(OSError):  # what is still buffered must not fail again at exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise InputError("nobody reads the output", got="a closed pipe") from error

    return run


def _among_processes(command: Callable[..., None], *, shared: bool) -> Callable[..., None]:
    """Let the processes that ``torchrun`` started work together; the first one alone speaks."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        num_processes = int(os.environ.get("WORLD_SIZE", "1"))
        if num_processes == 1:
            command(**given)
            return
        if not shared:
            raise InputError(
                f"{command.__name__} works in one process",
                got=f"{num_processes} processes of torchrun",
                wanted="train, train resume or spectrum",
            )
        from hessdiag.linalg import processes
        from hessdiag.subject import resolve_device

        with processes.joined(resolve_device(given["device"])):
            command(**{**given, "quiet": given["quiet"] or not processes.is_first()})

    return run


_SHARED = (train.train, train.resume, spectrum.spectrum)


def _added(command: Callable[..., None]) -> Callable[..., None]:
    return _with_reader(_among_processes(options.expanded(command), shared=command in _SHARED))


for command in (
    demo.demo,
    spectrum.spectrum,
    sparsity.sparsity,
    landscape.landscape,
    compare.compare,
    gate.gate,
    report.report,
    doctor.doctor,
):
    app.command(command.__name__)(_added(command))
training = typer.Typer(cls=train.DefaultToRun, rich_markup_mode=None)
for name, command in (
    ("run", train.train),
    ("resume", train.resume),
    ("sweep", sweep.sweep),
    ("recipes", train.recipes),
    ("sensing", sensing.sensing),
):
    training.command(name)(_added(command))
app.add_typer(training, name="train", help="Train a network by a recipe; go on with a run.")


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"hessdiag {__version__}")
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take the table of commands' own options."""
