"""``hessdiag train``, ``train resume`` and ``train recipes``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from hessdiag.cli import options
from hessdiag.cli.method_options import StrengthOptions
from hessdiag.metrics import metric_table
from hessdiag.progress import Progress
from hessdiag.settings import check, option
from hessdiag.subject_options import DataOptions, DeviceOption, ModelOptions, SeedOption
from hessdiag.training import methods

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from hessdiag.training.feeds import Data
    from hessdiag.training.folder import Config
    from hessdiag.training.history import Epoch


@dataclass(frozen=True)
class RunningOptions(DeviceOption, options.QuietOption):
    """What makes no difference to a run's result."""

    workers: Annotated[int, option("Processes that decode streamed images.", ge=0, le=1024)] = 0
    tensorboard: Annotated[bool, option("Write TensorBoard's events into the run's folder.")] = (
        False
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class RecipeOptions(DataOptions):
    """A recipe, what replaces its fields, and how much of the data is used."""

    recipe: Annotated[str, option("Name of the recipe; hessdiag train recipes lists them.")] = (
        "digits-wrn10-1"
    )
    config: Annotated[
        str | None, option("A TOML file of recipe fields and strengths to override.")
    ] = None
    epochs: Annotated[int | None, option("Override the recipe's epochs.")] = None
    lr: Annotated[float | None, option("Override the peak learning rate.")] = None
    batch_size: Annotated[int | None, option("Examples a step.")] = None
    num_samples: Annotated[
        int | None, option("Train on so many examples, drawn at random by the seed.")
    ] = None
    validation: Annotated[
        float | None, option("Share of the training data to hold out, drawn by the seed.")
    ] = None
    init: Annotated[
        str | None,
        option(
            "Weights to start from: a checkpoint, torchvision for its own, fresh for none. "
            "Default: the recipe's."
        ),
    ] = None
    track_every: Annotated[int, option("Epochs between measurements.")] = 1


class DefaultToRun(TyperGroup):
    """Takes ``train --reg sam`` for ``train run --reg sam``: training is what train does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put in the command that was left out; a word in its place is one mistyped."""
        named = bool(args) and not args[0].startswith("-")
        return super().parse_args(ctx, args if named else ["run", *args])


def train(
    strengths: StrengthOptions,
    base: RecipeOptions,
    network: ModelOptions,
    random: SeedOption,
    running: RunningOptions,
    reg: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(methods.METHODS)}. Default: the recipe's."),
    ] = None,
    straight_through: Annotated[
        bool, typer.Option("--straight-through", help="The same as --labels straight-through.")
    ] = False,
    optimizer: Annotated[
        str | None, typer.Option(help="Override the optimizer: any of torch.optim by name.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, or bf16 for methods of first order.")
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Translate the network by torch.compile; first order only."),
    ] = False,
    track: Annotated[
        str | None,
        typer.Option(
            help="Metrics to measure on a fixed sample, with commas between them, such as "
            f"hessian.trace,nme.lambda_min. Any of {metric_table.FORMS}.",
        ),
    ] = None,
    pac_bayes: Annotated[
        bool, typer.Option("--pac-bayes", help="Put the PAC-Bayes bound into the report.")
    ] = False,
    log_every: Annotated[
        int | None, typer.Option(help="Steps between rows of steps.jsonl. Default: no rows.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder of the run. Default: a new one, runs/<recipe>-<reg>-<time>-<id>."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in --out.")] = False,
    save_every: Annotated[
        int | None, typer.Option(help="Steps between states on disk, beside one an epoch.")
    ] = None,
    on_nonfinite: Annotated[
        str, typer.Option(help="stop or skip a step whose loss or gradient is not finite.")
    ] = "stop",
) -> None:
    """Train a network by a recipe, with any of the papers' regularisers.

    The run's folder holds config.toml, metrics.jsonl, the last and the best checkpoint, curves.png,
    report.json and the full state. Stopped at whatever instant, `train resume FOLDER` goes on as if
    it never was. `train recipes` lists the recipes, `train sweep` trains over a grid of choices,
    `train sensing` recovers a matrix with noise. Under torchrun, the processes share every batch.
    """
    from pathlib import Path

    from hessdiag.linalg import devices, processes
    from hessdiag.training import folder, loop, tracking
    from hessdiag.training.configure import configure

    run = configure(
        base.recipe,
        file=base.config,
        changes={
            "regulariser": reg,
            "model": network.model,
            "activation": network.activation,
            "beta": network.beta,
            "model_arg": network.model_arg,
            "data": base.data,
            "epochs": base.epochs,
            "lr": base.lr,
            "batch_size": base.batch_size,
            "optimizer": optimizer,
            "precision": precision,
            "init": base.init,
            "validation": base.validation,
            "label_noise": base.label_noise,
        },
        strengths={**vars(strengths), "straight_through": straight_through or None},
        seed=random.seed,
        num_samples=base.num_samples,
        data_root=base.data_root,
        save_every=save_every,
        on_nonfinite=on_nonfinite,
        log_every=log_every,
        track=tuple(name.strip() for name in track.split(",")) if track else (),
        track_every=base.track_every,
        pac_bayes=pac_bayes,
        compile=compiled,
    )
    tracking.check(run.track)
    where = devices.resolve(running.device)
    name = folder.unused(f"runs/{run.recipe.name}-{run.method.name}") if out is None else Path(out)
    place = processes.agreed(name)
    with folder.owned(place, new=out is None) if processes.is_first() else nullcontext():
        if processes.is_first():
            folder.check_free(place, force=force, inputs=(base.config, base.init, base.data))
        with processes.in_turn():  # the first one downloads, the others find what it got
            sets = loop.load_data(run, download=base.download)
        _go(run, place, sets, where, None, running)


def resume(
    run: Annotated[str, typer.Argument(help="Folder of the run.")],
    running: RunningOptions,
    model: Annotated[
        str | None, typer.Option(help="The run's package.module:factory, if it has one.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The run's package.module:factory of data, if it has one.")
    ] = None,
) -> None:
    """Go on with a run that was stopped, bit for bit as if it never was (on the same device)."""
    from pathlib import Path

    from hessdiag.cli import console
    from hessdiag.linalg import devices, processes
    from hessdiag.training import folder, loop, state

    place = Path(run)
    trusted = {"model": model, "data": data}
    _check_code(folder.read_config(place), trusted)
    where = devices.resolve(running.device)
    with folder.owned(place) if processes.is_first() else nullcontext():
        config = folder.read_config(place)
        _check_code(config, trusted)
        payload, remark = state.load(place)
        if remark is not None and processes.is_first():
            console.note(remark)
        sets = loop.load_data(config)
        _go(config, place, sets, where, payload, running)


def _check_code(config: Config, trusted: dict[str, str | None]) -> None:
    """A folder must not choose which code of this machine is run: only an option may."""
    from hessdiag import factories
    from hessdiag.errors import InputError

    for name, given in trusted.items():
        chosen = getattr(config.recipe, name)
        if given is None and factories.is_factory(chosen):
            raise InputError(
                "the run's configuration names code to run",
                got=repr(chosen),
                hint=f"if you trust it, pass --{name} {chosen}",
            )
        if given not in (None, chosen):
            raise InputError(f"the run has another {name}", got=f"--{name} {given}", wanted=chosen)


def recipes() -> None:
    """List the recipes."""
    from hessdiag.training.recipes import RECIPES, summary

    for recipe in RECIPES.values():
        print(summary(recipe))


def _go(
    config: Config,
    place: Path,
    sets: tuple[Data, Data | None],
    device: torch.device,
    payload: dict[str, Any] | None,
    running: RunningOptions,
) -> None:
    """Train with a progress bar; the first process writes the report and says where all is."""
    from hessdiag.cli import console
    from hessdiag.errors import printable
    from hessdiag.linalg import processes
    from hessdiag.show import terminal
    from hessdiag.training import loop
    from hessdiag.training.board import open_board
    from hessdiag.training.outputs import write_report
    from hessdiag.training.train_result import report

    writes = processes.is_first()
    board = open_board(place) if running.tensorboard and writes else None
    with console.progress("training", quiet=running.quiet) as bar:

        def show_epoch(epoch: Epoch) -> None:
            bar.milestone(f"epoch {epoch.number}/{config.recipe.epochs}: {epoch.summary()}")
            if board is not None:
                board(epoch)

        finished = loop.train(
            config,
            *sets,
            out=place,
            device=device,
            num_workers=running.workers,
            payload=payload,
            on_step=lambda now: bar.show(Progress(now.step, now.num_steps, now.summary())),
            on_epoch=show_epoch,
            on_remark=console.note if writes else lambda _: None,
        )
    if not writes:
        return
    write_report(finished)
    if not running.quiet:
        console.err().print(terminal.render(report(finished).document()))
        print(printable(str(finished.checkpoint)))
