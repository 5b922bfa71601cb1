"""``hessdiag train``."""

from __future__ import annotations

from typing import Annotated

import typer

from hessdiag.cli import options


def train(
    recipe: Annotated[str, typer.Option(help="Name of the recipe.")] = "digits-wrn10-1",
    reg: Annotated[str, typer.Option(help="Regulariser: none.")] = "none",
    epochs: Annotated[int | None, typer.Option(help="Override the recipe's epochs.")] = None,
    lr: Annotated[float | None, typer.Option(help="Override the peak learning rate.")] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder of the run. Default: runs/<recipe>-<reg>-<time>."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in --out.")] = False,
    model: options.Model = None,
    activation: options.Activation = None,
    beta: options.Beta = None,
    data: options.Data = None,
    num_samples: Annotated[
        int | None, typer.Option(help="Train on so many examples, drawn at random.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step.")] = None,
    data_root: options.DataRoot = None,
    download: options.Download = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Train a network by a recipe and write a checkpoint that knows its network and data."""
    import time
    from pathlib import Path

    from hessdiag import subject
    from hessdiag.cli import console
    from hessdiag.errors import printable
    from hessdiag.training import loop, recipes

    changes = {
        "model": model,
        "activation": activation,
        "data": data,
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
    }
    chosen = recipes.override(recipes.find(recipe), beta=beta, **changes)
    loop.check_regulariser(reg)
    where = subject.resolve_device(device)
    folder = Path(out or f"runs/{chosen.name}-{reg}-{time.strftime('%Y%m%d-%H%M%S')}")
    loop.check_free(folder, force=force)
    train_data, test_data = loop.load_data(
        chosen.data, num_samples=num_samples, seed=seed, root=data_root, download=download
    )
    talk = console.err()
    with console.progress("training", quiet=quiet) as bar:
        last = loop.Epoch.none()

        def show_epoch(epoch: loop.Epoch) -> None:
            nonlocal last
            last = epoch

        path = loop.train(
            chosen,
            train_data,
            test_data,
            out=folder,
            regulariser=reg,
            seed=seed,
            device=where,
            on_step=lambda done, total: bar.update(done, total, last.summary()),
            on_epoch=show_epoch,
        )
    if not quiet:
        talk.print(f"epoch {last.number}: {last.summary()}")
    if not quiet:
        print(printable(str(path)))
