"""``hessdiag sparsity``."""

from __future__ import annotations

from typing import Annotated

import typer

from hessdiag.cli import options, results
from hessdiag.errors import InputError
from hessdiag.subject_options import SubjectOptions


def sparsity(
    subject: SubjectOptions,
    output: options.OutputOptions,
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
) -> None:
    """How much of the activations' second derivative φ'' is there: it carries the NME.

    For an activation alone, where φ'' is not zero and how often Gaussian pre-activations and those
    of a freshly initialised network meet it. For a checkpoint, the same at every activation call of
    the network, before and after training.
    """
    from hessdiag.cli import console
    from hessdiag.nets import activations
    from hessdiag.nets.profiles import check_threshold
    from hessdiag.subjects import activation_studies
    from hessdiag.subjects.subject import load

    results.check_targets(output)
    check_threshold(threshold)
    betas = _parse(beta)
    if checkpoint is None and activation is None and subject.model is None:
        raise InputError(
            "there is nothing to look at",
            wanted=f"a checkpoint, or --activation with one of {', '.join(activations.NAMES)}",
        )
    if activation is not None:
        for value in betas or [None]:
            activations.settle_beta(activation, value)
    with console.progress("sparsity", quiet=output.quiet) as bar:
        found = load(checkpoint, subject, activation=activation, beta=betas[0] if betas else None)
        report = activation_studies.study(
            found,
            betas,
            with_initial=initial,
            threshold=threshold,
            with_nme=with_nme,
            num_probes=num_probes,
            bn=subject.bn,
            seed=subject.seed,
            on_progress=bar.show,
        )
    results.show(report, output)


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
