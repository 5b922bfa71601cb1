"""``hessdiag sparsity``."""

from __future__ import annotations

from typing import Annotated

import typer

from hessdiag.cli import options, results
from hessdiag.errors import InputError


def sparsity(
    checkpoint: Annotated[
        str | None,
        typer.Argument(help="A checkpoint; without one, a fresh network on the digits."),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(
            help="relu, gelu, beta_gelu, silu, tanh, …; with a checkpoint: what if it had this one?"
        ),
    ] = None,
    beta: Annotated[
        str | None, typer.Option(help="β of the activation, or a list such as 1,2,5,10 to compare.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="τ: also count |φ''| above this share of its maximum.")
    ] = 1e-3,
    initial: Annotated[
        bool, typer.Option(help="With a checkpoint: the network before training beside it.")
    ] = True,
    with_nme: Annotated[
        bool, typer.Option("--with-nme", help="Norms of the within-layer blocks of the NME.")
    ] = False,
    num_probes: Annotated[int, typer.Option(help="Probes for each block of --with-nme.")] = 8,
    model: options.Model = None,
    data: options.Data = None,
    split: options.Split = "train",
    num_samples: options.NumSamples = None,
    batch_size: options.BatchSize = None,
    loss: options.Loss = None,
    bn: options.Bn = "eval",
    data_root: options.DataRoot = None,
    download: options.Download = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
    seed: options.Seed = 0,
    json: options.Json = None,
    plot: options.Plot = None,
    quiet: options.Quiet = False,
) -> None:
    """How much of the activations' second derivative φ'' is there: it carries the NME.

    For an activation alone, where φ'' is not zero and how often Gaussian pre-activations and those
    of a freshly initialised network meet it. For a checkpoint, the same at every activation call of
    the network, before and after training.
    """
    from hessdiag import subject
    from hessdiag.cli import console
    from hessdiag.nets import activations
    from hessdiag.nets.profiles import check_threshold
    from hessdiag.reports.sparsity.plot import sparsity_figure
    from hessdiag.reports.sparsity.schema import sparsity_json
    from hessdiag.reports.sparsity.text import sparsity_text
    from hessdiag.sparsities import studies

    results.check_targets(json=json, plot=plot)
    check_threshold(threshold)
    betas = _parse(beta)
    if checkpoint is None and activation is None and model is None:
        raise InputError(
            "there is nothing to look at",
            wanted=f"a checkpoint, or --activation with one of {', '.join(activations.NAMES)}",
        )
    if activation is not None:
        for value in betas or [None]:
            activations.settle_beta(activation, value)
    with console.progress("sparsity", quiet=quiet) as bar:
        found = subject.load(
            checkpoint,
            model=model,
            activation=activation,
            beta=betas[0] if betas else None,
            data=data,
            split=split,
            num_samples=num_samples,
            batch_size=batch_size,
            loss=loss,
            bn=bn,
            device=device,
            dtype=dtype,
            seed=seed,
            data_root=data_root,
            download=download,
        )
        found_studies = studies.study(
            found,
            betas,
            with_initial=initial,
            threshold=threshold,
            with_nme=with_nme,
            num_probes=num_probes,
            bn=bn,
            seed=seed,
            on_progress=bar.update,
        )
    provenance = found.provenance()
    results.deliver(
        json=json,
        plot=plot,
        quiet=quiet,
        payload=lambda: sparsity_json(found_studies, provenance, seed=seed, num_probes=num_probes),
        figure=lambda: sparsity_figure(found_studies, provenance),
        text=lambda: sparsity_text(found_studies, provenance),
    )


def _parse(text: str | None) -> list[float]:
    """Read a number, or several with commas between them."""
    if text is None:
        return []
    try:
        return list(dict.fromkeys(float(item) for item in text.split(",")))
    except ValueError as error:
        raise InputError(
            "β is not a number", got=repr(text), wanted="a number, or several as in 1,2,5,10"
        ) from error
