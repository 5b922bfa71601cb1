"""Options that several commands share: one spelling, one help text each."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import typer


def given(ctx: typer.Context, *, but: Collection[str]) -> list[str]:
    """List the options given on the command line whose parameters are not among ``but``."""
    return [
        parameter.opts[0]
        for parameter in ctx.command.params
        if (name := str(parameter.name)) not in but
        and getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]


Checkpoint = Annotated[
    str, typer.Argument(help="A .safetensors checkpoint, or a .pt/.pth state dict.")
]
Model = Annotated[
    str | None,
    typer.Option(
        help="wrn<depth>-<widen>, resnet18|34|50|101, mlp-64-64, or package.module:factory. "
        "Default: the checkpoint's metadata, else its tensors' names and shapes.",
    ),
]
Activation = Annotated[
    str | None,
    typer.Option(help="relu, gelu, beta_gelu, silu, tanh, …"),
]
Beta = Annotated[float | None, typer.Option(help="β of the activation.")]
Data = Annotated[
    str | None,
    typer.Option(
        help="digits, cifar10, cifar100, mnist, fashion-mnist, imagenet, folder:DIR, a .npz or "
        ".safetensors file, or package.module:factory. Default: the checkpoint's metadata.",
    ),
]
Split = Annotated[str, typer.Option(help="train or test.")]
NumSamples = Annotated[
    int | None,
    typer.Option(
        help="Examples, drawn at random by --seed. Default: 512, or all if there are fewer.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Examples in a microbatch: memory only, the result does not depend on it.",
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(
        help="cross-entropy or mse. Default: the checkpoint's metadata, else cross-entropy.",
    ),
]
Bn = Annotated[
    str,
    typer.Option(
        "--bn",
        help="eval: BatchNorm's running statistics; batch: those of the sample, as one batch.",
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        help="Weights to start from: a checkpoint, torchvision for its own, fresh for none. "
        "Default: the recipe's.",
    ),
]
DataRoot = Annotated[str | None, typer.Option(help="Folder of torchvision's data sets.")]
Download = Annotated[
    bool,
    typer.Option("--download", help="Fetch a torchvision data set."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i.")]
Dtype = Annotated[str, typer.Option(help="float32 or float64.")]
Seed = Annotated[int, typer.Option(help="Seed of all randomness.")]
Json = Annotated[
    str | None,
    typer.Option("--json", help="Write the report as JSON; - for stdout."),
]
Plot = Annotated[
    str | None,
    typer.Option("--plot", help="Write a plot: .png, .svg or .pdf."),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress, no table."),
]
