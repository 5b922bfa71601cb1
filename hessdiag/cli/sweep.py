"""``hessdiag train sweep``."""

from __future__ import annotations

from typing import Annotated

import typer

from hessdiag.cli import options, results
from hessdiag.cli.method_options import StrengthLists, several, split
from hessdiag.cli.train import RecipeOptions, RunningOptions
from hessdiag.errors import InputError
from hessdiag.subject_options import ModelOptions

LOADED = "hessdiag.training.sweep", "hessdiag.training.outputs", "torch._dynamo"
"""Modules that a run needs; optimizers of torch load the last one."""


def sweep(
    strengths: StrengthLists,
    base: RecipeOptions,
    network: ModelOptions,
    running: RunningOptions,
    many: options.JobOptions,
    output: options.OutputOptions,
    reg: Annotated[
        str | None,
        typer.Option(
            help="Methods, as none,grad-penalty,gn-trace; train --help lists them. "
            "Default: the recipe's."
        ),
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="Activations, as gelu,relu. Default: the recipe's.")
    ] = None,
    beta: Annotated[
        str | None, typer.Option(help="Values of β, for the activations that take one.")
    ] = None,
    seed: Annotated[str, typer.Option(help="Seeds; each cell is run with every one.")] = "0,1,2",
    track: Annotated[
        str | None, typer.Option(help="Metrics to measure, as train --track; the last are shown.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder of the sweep. Default: runs/<recipe>-sweep.")
    ] = None,
) -> None:
    """Train a grid of runs, and tell how accuracy depends on method, strength and activation.

    Lists are separated by commas; the grid is their product, in which a method has only the
    strengths that it takes. Each run has a folder of its own in OUT, and OUT/sweep.json holds the
    report after every run. The same command goes on where it was stopped, however many --jobs
    it has; with these, OUT/jobs holds what runs print.
    """
    from pathlib import Path

    many.prepare(*LOADED)
    from hessdiag import files
    from hessdiag.cli import console
    from hessdiag.training import folder, tracking
    from hessdiag.training import sweep as sweeps
    from hessdiag.training.outputs import OUTPUTS, write_report
    from hessdiag.training.sweep_result import report

    results.check_targets(output)
    metrics = tuple(split(track, "track"))
    tracking.check(metrics)
    found = planned = sweeps.plan(
        base.recipe,
        seeds=split(seed, "seed", int),
        regularisers=split(reg, "reg"),
        activation_names=split(activation, "activation"),
        betas=split(beta, "beta", float),
        strengths=several(strengths),
        changes={
            "model": network.model,
            "model_arg": network.model_arg,
            "data": base.data,
            "epochs": base.epochs,
            "lr": base.lr,
            "batch_size": base.batch_size,
            "init": base.init,
            "validation": base.validation,
            "label_noise": base.label_noise,
        },
        file=base.config,
        num_samples=base.num_samples,
        data_root=base.data_root,
        track=metrics,
        track_every=base.track_every,
    )
    place = Path(out or f"runs/{base.recipe}-sweep")
    engine = many.engine(place / "jobs", running.device)
    with console.progress("sweep", quiet=output.quiet) as bar:
        for found in sweeps.run(
            planned,
            place,
            device=running.device,
            num_workers=running.workers,
            download=base.download,
            on_step=bar.show,
            on_finished=write_report,
            outputs=OUTPUTS,
            engine=engine,
        ):
            files.write_text(place / folder.SWEEP, report(found).to_json())
    results.show(report(found), output)
    if all(trial.failure is not None for trial in found.trials):
        raise InputError("no run of the sweep could be finished", got=found.trials[0].failure)
