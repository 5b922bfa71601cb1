"""``hessdiag train``, ``train resume`` and ``train recipes``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from hessdiag.cli import options

if TYPE_CHECKING:
    from pathlib import Path

    from hessdiag.training.folder import Config


class DefaultToRun(TyperGroup):
    """Takes ``train --reg sam`` for ``train run --reg sam``: training is what train does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put in the command that was left out; a word in its place is one mistyped."""
        named = bool(args) and not args[0].startswith("-")
        return super().parse_args(ctx, args if named else ["run", *args])


def train(
    recipe: Annotated[
        str, typer.Option(help="Name of the recipe; hessdiag train recipes lists them.")
    ] = "digits-wrn10-1",
    reg: Annotated[
        str | None,
        typer.Option(
            help="none, grad-penalty, sam, usam, asam, weight-noise, nso, hessian-trace, gn-trace "
            "or nme-trace. Default: the recipe's.",
        ),
    ] = None,
    rho: Annotated[
        float | None, typer.Option(help="ρ of grad-penalty, sam, usam and asam.")
    ] = None,
    power: Annotated[int | None, typer.Option(help="p of the gradient penalty ρ‖g‖ᵖ.")] = None,
    ablate_nme: Annotated[
        bool, typer.Option("--ablate-nme", help="Gradient penalty: G instead of H in the update.")
    ] = False,
    sigma2: Annotated[
        float | None,
        typer.Option(help="σ² of weight-noise and nso; in the trace penalties κ = σ²/2."),
    ] = None,
    kappa: Annotated[float | None, typer.Option(help="κ of the trace penalties.")] = None,
    reg_samples: Annotated[int | None, typer.Option(help="Samples of the trace penalties.")] = None,
    probe: Annotated[
        str | None, typer.Option(help="gaussian or rademacher, of the Hessian-trace penalty.")
    ] = None,
    straight_through: Annotated[
        bool,
        typer.Option("--straight-through", help="gn-trace: differentiate through the sampling."),
    ] = False,
    num_pairs: Annotated[int | None, typer.Option(help="Pairs of opposite noise of nso.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Override the recipe's epochs.")] = None,
    lr: Annotated[float | None, typer.Option(help="Override the peak learning rate.")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="Override the optimizer: any of torch.optim by name.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, or bf16 for methods of first order.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="A TOML file of recipe fields and strengths to override.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder of the run. Default: runs/<recipe>-<reg>-<time>."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in --out.")] = False,
    save_every: Annotated[
        int | None, typer.Option(help="Steps between states on disk, beside one an epoch.")
    ] = None,
    on_nonfinite: Annotated[
        str, typer.Option(help="stop or skip a step whose loss or gradient is not finite.")
    ] = "stop",
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
    """Train a network by a recipe, with any of the papers' regularisers.

    The run's folder holds config.toml, metrics.jsonl, the last and the best checkpoint, curves.png
    and the full state. Stopped at whatever instant, `hessdiag train resume FOLDER` goes on as if
    it never was. `hessdiag train recipes` lists the recipes.
    """
    import time
    from pathlib import Path

    from hessdiag import subject
    from hessdiag.errors import InputError, unknown
    from hessdiag.training import folder, loop, methods, recipes

    from_file = recipes.read_config(config) if config is not None else {}
    strengths = {
        "rho": rho,
        "power": power,
        "ablate_nme": ablate_nme or None,
        "sigma2": sigma2,
        "kappa": kappa,
        "samples": reg_samples,
        "probe": probe,
        "straight_through": straight_through or None,
        "num_pairs": num_pairs,
    }
    changes = {
        "model": model,
        "activation": activation,
        "data": data,
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "precision": precision,
    }
    given: dict[str, Any] = {**from_file, **{k: v for k, v in changes.items() if v is not None}}
    from_config = {name: given.pop(name) for name in list(given) if name in strengths}
    chosen_beta = beta if beta is not None else given.pop("beta", None)
    if reg is not None:
        given["regulariser"] = reg
    chosen = recipes.override(recipes.find(recipe), beta=chosen_beta, **given)
    name = chosen.regulariser
    from_options = {key: value for key, value in strengths.items() if value is not None}
    kept = {**dict(chosen.strengths), **from_config, **from_options}
    for option, value in (("--save-every", save_every), ("--num-samples", num_samples)):
        if value is not None and value < 1:
            raise InputError(f"{option} is too small", got=value, wanted="at least 1")
    if on_nonfinite not in ("stop", "skip"):
        raise unknown("--on-nonfinite", on_nonfinite, ("stop", "skip"))
    run = folder.Config(
        recipe=chosen,
        regulariser=name,
        strengths=methods.settle(
            name, activation=chosen.activation, precision=chosen.precision, **kept
        ),
        seed=seed,
        num_samples=num_samples,
        data_root=data_root,
        save_every=save_every,
        on_nonfinite=on_nonfinite,
    )
    where = subject.resolve_device(device)
    place = Path(out or f"runs/{chosen.name}-{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    folder.check_free(place, force=force)
    sets = loop.load_data(run, download=download)
    with folder.made(place):
        _go(run, place, sets, where, None, quiet=quiet)


def resume(
    run: Annotated[str, typer.Argument(help="Folder of the run.")],
    device: options.Device = "auto",
    quiet: options.Quiet = False,
) -> None:
    """Go on with a run that was stopped, bit for bit as if it never was (on the same device)."""
    from pathlib import Path

    from hessdiag import subject
    from hessdiag.cli import console
    from hessdiag.errors import printable
    from hessdiag.training import folder, loop, state

    place = Path(run)
    config = folder.read_config(place)
    payload, remark = state.load(place)
    if remark is not None:
        console.err().print(printable(f"note: {remark}"), markup=False)
    where = subject.resolve_device(device)
    _go(config, place, loop.load_data(config), where, payload, quiet=quiet)


def recipes() -> None:
    """List the recipes."""
    from hessdiag.training.recipes import RECIPES, summary

    for recipe in RECIPES.values():
        print(summary(recipe))


def _go(config: Config, place: Path, sets: Any, device: Any, payload: Any, *, quiet: bool) -> None:
    """Train with a progress bar, draw the curves, and say where the checkpoint is."""
    from hessdiag.cli import console
    from hessdiag.errors import printable
    from hessdiag.reports import figures
    from hessdiag.reports.training import curves_figure
    from hessdiag.training import folder, loop
    from hessdiag.training.run import Epoch

    last: Epoch | None = None
    with console.progress("training", quiet=quiet) as bar:

        def show_epoch(epoch: Epoch) -> None:
            nonlocal last
            last = epoch

        path = loop.train(
            config,
            *sets,
            out=place,
            device=device,
            payload=payload,
            on_step=lambda done, total: bar.update(done, total, last.summary() if last else ""),
            on_epoch=show_epoch,
        )
    figures.save(curves_figure(folder.read_metrics(place)), place / folder.CURVES)
    if not quiet:
        if last is not None:
            console.err().print(f"epoch {last.number}: {last.summary()}")
        print(printable(str(path)))
