"""``hessdiag train sweep``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from hessdiag.cli import options, results
from hessdiag.cli.train import Workers
from hessdiag.errors import InputError

_Item = TypeVar("_Item", str, int, float)


def sweep(
    recipe: Annotated[
        str, typer.Option(help="Name of the recipe; hessdiag train recipes lists them.")
    ] = "digits-wrn10-1",
    reg: Annotated[
        str | None,
        typer.Option(
            help="Methods, as none,grad-penalty,gn-trace; train --help lists them. "
            "Default: the recipe's."
        ),
    ] = None,
    rho: Annotated[str | None, typer.Option(help="Values of ρ, as 0,0.01,0.1.")] = None,
    sigma2: Annotated[str | None, typer.Option(help="Values of σ², as 1e-4,1e-3.")] = None,
    kappa: Annotated[str | None, typer.Option(help="Values of κ.")] = None,
    power: Annotated[str | None, typer.Option(help="Values of p: 1, 2 or both.")] = None,
    reg_samples: Annotated[
        str | None, typer.Option(help="Numbers of samples of weight-noise and the trace penalties.")
    ] = None,
    num_pairs: Annotated[str | None, typer.Option(help="Numbers of pairs of nso.")] = None,
    activation: Annotated[
        str | None, typer.Option(help="Activations, as gelu,relu. Default: the recipe's.")
    ] = None,
    beta: Annotated[
        str | None, typer.Option(help="Values of β, for the activations that take one.")
    ] = None,
    seed: Annotated[str, typer.Option(help="Seeds; each cell is run with every one.")] = "0,1,2",
    epochs: Annotated[int | None, typer.Option(help="Override the recipe's epochs.")] = None,
    lr: Annotated[float | None, typer.Option(help="Override the peak learning rate.")] = None,
    config: Annotated[
        str | None, typer.Option(help="A TOML file of recipe fields and strengths to override.")
    ] = None,
    track: Annotated[
        str | None, typer.Option(help="Metrics to measure, as train --track; the last are shown.")
    ] = None,
    track_every: Annotated[int, typer.Option(help="Epochs between measurements.")] = 1,
    init: options.Init = None,
    out: Annotated[
        str | None, typer.Option(help="Folder of the sweep. Default: runs/<recipe>-sweep.")
    ] = None,
    model: options.Model = None,
    data: options.Data = None,
    num_samples: Annotated[
        int | None, typer.Option(help="Train on so many examples, drawn at random by the seed.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step.")] = None,
    data_root: options.DataRoot = None,
    download: options.Download = False,
    workers: Workers = 0,
    device: options.Device = "auto",
    json: options.Json = None,
    plot: options.Plot = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a grid of runs, and tell how accuracy depends on method, strength and activation.

    Lists are separated by commas; the grid is their product, in which a method has only the
    strengths that it takes. Each run has a folder of its own in OUT, and OUT/sweep.json holds the
    report after every run. The same command goes on where it was stopped.
    """
    from pathlib import Path

    from hessdiag import files, subject
    from hessdiag.cli import console
    from hessdiag.reports.payload import dumps
    from hessdiag.reports.sweep.plot import sweep_figure
    from hessdiag.reports.sweep.schema import sweep_json
    from hessdiag.reports.sweep.text import sweep_text
    from hessdiag.reports.training.write import write_report
    from hessdiag.training import folder, tracking
    from hessdiag.training import sweep as sweeps

    results.check_targets(json=json, plot=plot)
    strengths = {
        "rho": _split(rho, "--rho", float),
        "sigma2": _split(sigma2, "--sigma2", float),
        "kappa": _split(kappa, "--kappa", float),
        "power": _split(power, "--power", int),
        "samples": _split(reg_samples, "--reg-samples", int),
        "num_pairs": _split(num_pairs, "--num-pairs", int),
    }
    metrics = tuple(_split(track, "--track", str))
    tracking.check(metrics)
    found = planned = sweeps.plan(
        recipe,
        seeds=_split(seed, "--seed", int),
        regularisers=_split(reg, "--reg", str),
        activation_names=_split(activation, "--activation", str),
        betas=_split(beta, "--beta", float),
        strengths={option: values for option, values in strengths.items() if values},
        changes={
            "model": model,
            "data": data,
            "epochs": epochs,
            "lr": lr,
            "batch_size": batch_size,
            "init": init,
        },
        file=config,
        num_samples=num_samples,
        data_root=data_root,
        track=metrics,
        track_every=track_every,
    )
    place = Path(out or f"runs/{recipe}-sweep")
    where = subject.resolve_device(device)
    with console.progress("sweep", quiet=quiet) as bar:
        for found in sweeps.run(
            planned,
            place,
            device=where,
            num_workers=workers,
            download=download,
            on_step=bar.update,
            on_finished=write_report,
        ):
            files.write_text(place / folder.SWEEP, dumps(sweep_json(found)))
    results.deliver(
        json=json,
        plot=plot,
        quiet=quiet,
        payload=lambda: sweep_json(found),
        figure=lambda: sweep_figure(found),
        text=lambda: sweep_text(found),
    )
    if all(trial.failure is not None for trial in found.trials):
        raise InputError("no run of the sweep could be finished", got=found.trials[0].failure)


def _split(text: str | None, option: str, kind: Callable[[str], _Item]) -> list[_Item]:
    """Read a list; None is an empty one."""
    try:
        return [kind(item.strip()) for item in text.split(",")] if text is not None else []
    except ValueError:
        wanted = "whole numbers" if kind is int else "numbers"
        raise InputError(
            f"{option} is no list of {wanted}",
            got=repr(text),
            wanted=f"{wanted} with commas between",
        ) from None
