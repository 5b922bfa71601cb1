"""The command line's table of commands. Nothing here or in a command's signature imports torch."""

from __future__ import annotations

import errno
import functools
import importlib
import os
import re
import resource
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from hessdiag import __version__
from hessdiag.cli import (
    blocks,
    compare,
    demo,
    doctor,
    gate,
    landscape,
    options,
    paths,
    report,
    reproduce,
    sensing,
    sparsity,
    spectrum,
    sweep,
    train,
)
from hessdiag.errors import InputError, Verdict

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


def _ending_properly(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command end by itself alone: a network or data may raise what would be a verdict."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        try:
            os.getcwd()
        except OSError as error:  # libraries end the process without it
            raise InputError("the working directory is gone", got=error.strerror) from error
        for name, numbers in _UNDERSTOOD.items():
            if not numbers.fullmatch(os.environ.get(name, "1")):
                del os.environ[name]
        _check_address_space()
        try:
            paths.check(given)
            command(**given)
        except OSError as error:
            if error.errno not in _OF_THE_SYSTEM:
                raise RuntimeError(f"{type(error).__name__}: {error}") from error
            name = error.filename or "a file"
            raise InputError(f"{name} cannot be read or written", got=error.strerror) from error
        except (SystemExit, EOFError, typer.Exit, typer.Abort) as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

    return run


_SIZE = re.compile(r"\d{1,4}", re.ASCII)
_UNDERSTOOD = {
    "OMP_NUM_THREADS": re.compile(r"\s*[1-9]\d*\s*(,\s*[1-9]\d*\s*)*", re.ASCII),
    **{"COLUMNS": _SIZE, "LINES": _SIZE},
}
"""Numbers in the environment that OpenMP and Rich understand; with others, they are not set.

OpenMP would say so by itself, and Rich would end the command.
"""


def _check_address_space() -> None:
    """See in a child whether torch fits where there is a limit: its libraries end the process.

    OpenBLAS ends it with 1, which is a verdict of the gate.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return
    if (child := os.fork()) == 0:
        try:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            for name in ("torch", "scipy.linalg", "scipy.special"):
                importlib.import_module(name)
            os._exit(0)
        finally:
            os._exit(2)
    if os.waitpid(child, 0)[1]:
        raise InputError(
            "the address space does not hold torch",
            got=f"a limit of {limit >> 20:,} MiB",
            hint="raise it: ulimit -v unlimited",
        )


_OF_THE_SYSTEM = (
    *(errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EINTR),
    *(errno.EMFILE, errno.ENFILE, errno.ENOLCK, errno.ETIMEDOUT),
)
"""Faults of a disk or of limits, which may strike at any line."""


def _among_processes(command: Callable[..., None], *, shared: bool) -> Callable[..., None]:
    """Let the processes that ``torchrun`` started work together; the first one alone speaks.

    Of a failure that ends all of them, one speaks: the first to fail.
    """

    @functools.wraps(command)
    def run(**given: Any) -> None:
        num_processes = _count_processes()
        if num_processes == 1:
            command(**given)
            return
        if not shared:
            if int(os.environ["RANK"]):
                raise Verdict(2)  # as the first process does, with its message
            raise InputError(
                f"{command.__name__} works in one process",
                got=f"{num_processes} processes of torchrun",
                wanted=", ".join(sorted(c.__name__ for c in _SHARED)),
            )
        from hessdiag.linalg import devices, processes
        from hessdiag.linalg.lifeline import Lifeline

        with processes.joined(devices.resolve(given["device"])), Lifeline() as line, _ended():
            try:
                command(**{**given, "quiet": given["quiet"] or not processes.is_first()})
                processes.wait()
            except Verdict:
                processes.wait()  # torchrun ends all when one ends with another code than 0
                raise
            except BaseException as error:
                if not line.speaks():
                    raise Verdict(2) from error
                raise

    return run


@contextmanager
def _ended() -> Generator[None]:
    """Let SIGTERM be an error like others: torchrun sends it to all when one process ends."""

    def end(*_: object) -> None:
        raise InputError(
            "the processes were ended", got="SIGTERM", hint="one of them was lost, or you did it"
        )

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _count_processes() -> int:
    """Read what ``torchrun`` tells each of its processes.

    Raises:
        InputError: it cannot be understood.
    """
    told = {name: os.environ.get(name, "") for name in ("WORLD_SIZE", *_OF_A_PROCESS)}
    if told["WORLD_SIZE"].strip() in ("", "1"):
        return 1
    num_processes = _whole("WORLD_SIZE", told, 1, 1 << 20)
    _whole("RANK", told, 0, num_processes - 1)
    _whole("LOCAL_RANK", {"LOCAL_RANK": "0", **{k: v for k, v in told.items() if v}}, 0, 1 << 20)
    _whole("MASTER_PORT", told, 0, 65535)
    if not told["MASTER_ADDR"]:
        raise _unclear("MASTER_ADDR", "nothing", "the address of the first process")
    return num_processes


_OF_A_PROCESS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def _whole(name: str, told: dict[str, str], least: int, most: int) -> int:
    text = told[name].strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise _unclear(name, repr(text), f"a whole number from {least} to {most}")
    return int(text)


def _unclear(name: str, got: str, wanted: str) -> InputError:
    return InputError(
        f"the environment's {name} says nothing of use",
        got=got,
        wanted=wanted,
        hint="start several processes by torchrun, or unset WORLD_SIZE",
    )


_SHARED = (
    train.train,
    train.resume,
    spectrum.spectrum,
    compare.compare,
    gate.gate,
    sparsity.sparsity,
    landscape.landscape,
    blocks.blocks,
)


def _added(command: Callable[..., None]) -> Callable[..., None]:
    return _ending_properly(_among_processes(options.expanded(command), shared=command in _SHARED))


for command in (
    demo.demo,
    spectrum.spectrum,
    sparsity.sparsity,
    landscape.landscape,
    blocks.blocks,
    compare.compare,
    gate.gate,
    report.report,
    reproduce.reproduce,
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
