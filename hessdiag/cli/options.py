"""From settings to options: one decorator makes a command's parameters of option dataclasses."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer

from hessdiag.settings import Field, check, fields, option

if TYPE_CHECKING:
    from pathlib import Path

    from hessdiag.jobs.task import Engine

CHECKPOINT = "A .safetensors, .pt, .pth, .bin or .ckpt file, or a folder of Hugging Face or PEFT."
Checkpoint = Annotated[str, typer.Argument(help=CHECKPOINT)]


@dataclass(frozen=True)
class QuietOption:
    """How much a command says."""

    quiet: Annotated[bool, option("No progress, no table.", flag="--quiet,-q")] = False


@dataclass(frozen=True)
class OutputOptions(QuietOption):
    """Where a command's result goes."""

    json: Annotated[str | None, option("Write the report as JSON; - for stdout.")] = None
    plot: Annotated[str | None, option("Write a plot: .png, .svg or .pdf.")] = None


@dataclass(frozen=True)
class ParameterOptions:
    """Which parameters of the network are looked at."""

    params: Annotated[
        tuple[str, ...] | None,
        option("Only parameters whose name matches this glob; may be repeated."),
    ] = None
    unchecked: Annotated[
        bool, option("Go on where the network's derivatives are found to be wrong.")
    ] = False

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ShardOptions:
    """How the processes of torchrun share the network itself."""

    shard: Annotated[
        bool, option("Under torchrun: cut parameters and vectors over the processes.")
    ] = False
    copies: Annotated[
        int, option("Copies of the network, each cut over its share of the processes.", ge=1)
    ] = 1

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class JobOptions:
    """How many of a command's computations go on at once, and where."""

    jobs: Annotated[
        int | None,
        option(
            "Computations at once, each in a process with its share of the cores, or its own GPU. "
            "Default: 1; with --slurm, as many as Slurm admits.",
            ge=1,
        ),
    ] = None
    slurm: Annotated[
        str | None,
        option(
            "Run each as a job of Slurm by these parameters, such as partition=gpu,time=120; "
            "needs hessdiag[cluster].",
            metavar="NAME=VALUE,…",
        ),
    ] = None

    def __post_init__(self) -> None:
        check(self)

    def prepare(self, *modules: str) -> None:
        """Begin to load what computations need, where they are to be processes of this machine."""
        if self.slurm is None and self.jobs is not None and self.jobs > 1:
            from hessdiag.jobs import local_jobs

            local_jobs.prepare(self.jobs, *modules)

    def engine(self, folder: Path, device: str) -> Engine | None:
        """Choose what runs them; None for one after another in this process.

        Args:
            folder: for what they print.
            device: checked here where they run here.

        Raises:
            InputError: there is no such device; parameters that make no sense.
        """
        from functools import partial

        if self.slurm is not None:
            from hessdiag.jobs import slurm_jobs

            given = slurm_jobs.parameters(self.slurm)
            return partial(slurm_jobs.run, given=given, count=self.jobs, folder=folder)
        from hessdiag.linalg import devices

        devices.resolve(device)
        if self.jobs in (None, 1):
            return None
        from hessdiag.jobs import local_jobs

        return partial(local_jobs.run, count=self.jobs, folder=folder)


_FLAGS: dict[str, str] = {}
"""Options by the names of their fields, of all commands."""


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` an option for every field of its parameters that are option dataclasses.

    A field that several dataclasses share is one option, which all of them receive. A parameter
    of the command itself takes the place of a field of its name, which keeps its default then.
    """
    hints = get_type_hints(command, include_extras=True)
    own = inspect.signature(command).parameters
    groups = {name: hints[name] for name in own if dataclasses.is_dataclass(hints[name])}
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in own.items():
        if name not in groups:
            parameters[name] = parameter.replace(annotation=hints[name])
            _FLAGS.setdefault(name, f"--{name.replace('_', '-')}")
    for kind in groups.values():
        for field in fields(kind):
            if field.name not in parameters and not field.extra["hidden"]:
                parameters[field.name] = _parameter(field)
                _FLAGS[field.name] = field.flag.partition(",")[0]
    shared = set(parameters) - (set(own) - set(groups))

    def run(**given: Any) -> None:
        arguments = {name: given[name] for name in own if name not in groups}
        for name, kind in groups.items():
            known = {field.name for field in fields(kind)} & shared
            arguments[name] = kind(
                **{key: _value(given[key]) for key in known if given[key] is not None}
            )
        command(**arguments)

    told: Any = run
    told.__name__, told.__doc__ = command.__name__, command.__doc__
    told.__annotations__ = {name: p.annotation for name, p in parameters.items()}
    told.__signature__ = inspect.Signature(
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters.values()]
    )
    return run


def as_flags(message: str) -> str:
    """Turn the `names` of fields in a message into the options that set them."""
    return re.sub(r"`(\w+)`", lambda match: _FLAGS.get(match[1], match[1]), message)


def given(ctx: typer.Context, *, but: Collection[str]) -> list[str]:
    """List the options given on the command line whose parameters are not among ``but``."""
    return [
        parameter.opts[0]
        for parameter in ctx.command.params
        if (name := str(parameter.name)) not in but
        and getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]


def _parameter(field: Field) -> inspect.Parameter:
    """Make a Typer parameter of a field: a tuple may be repeated, a truth value is a flag."""
    kind, default = field.type, field.default
    optional = isinstance(kind, types.UnionType)
    inner = get_args(kind)[0] if optional else kind
    names = field.flag.split(",")
    if get_origin(inner) is tuple:
        kind, default = list[get_args(inner)[0]] | None, None
    elif inner is bool and default is True:
        names = [f"{names[0]}/--no-{names[0].removeprefix('--')}"]
    described = typer.Option(*names, help=field.meta.description, metavar=field.extra["metavar"])
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, described],
    )


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
