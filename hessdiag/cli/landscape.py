"""``hessdiag landscape``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hessdiag.cli import options, results
from hessdiag.errors import InputError
from hessdiag.subject_options import SubjectOptions

if TYPE_CHECKING:
    from hessdiag.cli.console import Bar
    from hessdiag.landscapes.landscape_result import Landscape

_ALONE = frozenset(
    ("resolution", "radius", "activation", "beta", "seed", "json", "plot", "quiet", "checkpoint")
)
"""Parameters that mean something without a checkpoint."""


def landscape(
    ctx: typer.Context,
    which: options.ParameterOptions,
    subject: SubjectOptions,
    output: options.OutputOptions,
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            help="A .safetensors checkpoint, or a .pt/.pth state dict. Without one: two weights "
            "of a small perceptron, ReLU beside --activation.",
        ),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            help="A weight that spans the plane, such as 'fc1.weight[0,1]'; given twice.",
        ),
    ] = None,
    plane: Annotated[
        str | None,
        typer.Option(
            help="random: two filter-normalised directions; hessian, gn or nme: the top two "
            "eigenvectors of that part. Default: random.",
        ),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(help="Points a side. Default: 25, or 161 without a checkpoint."),
    ] = None,
    radius: Annotated[
        float,
        typer.Option(help="Reach of the plane on each side of the network's own weights."),
    ] = 1.0,
    num_probes: Annotated[
        int,
        typer.Option(help="Probes of the norms of all of G and N; 0 for those in the plane only."),
    ] = 0,
    activation: Annotated[
        str | None,
        typer.Option(
            help="relu, gelu, beta_gelu, silu, tanh, … Without a checkpoint: that beside ReLU, "
            "beta_gelu by default.",
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(help="β of the activation. Without a checkpoint beta_gelu has 10 by default."),
    ] = None,
) -> None:
    """Loss and norms of the Gauss-Newton part and of the NME over a plane of two directions.

    The norms are Frobenius norms of the parts restricted to the plane, exact at every point. A
    ReLU network's NME is zero within one layer except at its kinks; a smooth activation spreads it
    over bands along them.
    """
    from hessdiag import landscape as compute
    from hessdiag.cli import console
    from hessdiag.subjects.subject import load

    results.check_targets(output)
    provenance = None
    with console.progress("landscape", quiet=output.quiet) as bar:
        if checkpoint is None:
            _refuse_what_needs_a_checkpoint(ctx)
            found = _two_weights(activation, beta, resolution, radius, subject.seed, bar)
        else:
            _check_plane(weight, plane)
            of = load(checkpoint, subject, activation=activation, beta=beta)
            provenance = of.provenance()
            found = compute(
                of.model,
                of.batches(),
                plane=plane,
                weights=weight or None,
                resolution=25 if resolution is None else resolution,
                radius=radius,
                num_probes=num_probes,
                loss=of.loss,
                output=of.output,
                params=which.params,
                unchecked=which.unchecked,
                bn=subject.bn,
                dtype=of.dtype,
                seed=subject.seed,
                on_point=bar.show,
            )
    results.show(found.of(provenance) if provenance else found, output)


def _two_weights(
    activation: str | None,
    beta: float | None,
    resolution: int | None,
    radius: float,
    seed: int,
    bar: Bar,
) -> Landscape:
    """Survey the small perceptron: ReLU, and beside it the activation asked for."""
    from hessdiag.landscapes import two_weights

    name = "beta_gelu" if activation is None else activation
    if beta is None and name == "beta_gelu":
        beta = 10.0
    return two_weights.compare(
        list(dict.fromkeys([("relu", None), (name, beta)])),
        resolution=161 if resolution is None else resolution,
        radius=radius,
        seed=seed,
        on_point=bar.show,
    )


def _check_plane(weight: list[str] | None, plane: str | None) -> None:
    if weight and plane is not None:
        raise InputError(
            "two weights span a plane of their own",
            got=f"both --weight and --plane {plane}",
            wanted="one of the two",
        )
    if weight and len(weight) != 2:
        raise InputError(
            "a plane is spanned by two weights",
            got=f"--weight {len(weight)} times: {', '.join(weight)}",
            wanted="--weight twice, such as --weight 'fc1.weight[0,1]' --weight 'fc1.weight[1,0]'",
        )


def _refuse_what_needs_a_checkpoint(ctx: typer.Context) -> None:
    """Options that say something of a checkpoint must not be dropped without a word."""
    if given := options.given(ctx, but=_ALONE):
        raise InputError(
            f"{', '.join(given)} {'need' if len(given) > 1 else 'needs'} a checkpoint",
            got="none, so that a small perceptron is looked at, in float64 on the CPU",
            hint="hessdiag landscape CHECKPOINT …",
        )
