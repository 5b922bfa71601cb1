"""``hessdiag train sensing``."""

from __future__ import annotations

from typing import Annotated

import typer

from hessdiag.cli import options, results
from hessdiag.subject_options import DeviceOption, DtypeOption, SeedOption


def sensing(
    machine: DeviceOption,
    arithmetic: DtypeOption,
    random: SeedOption,
    output: options.OutputOptions,
    steps: Annotated[int, typer.Option(help="Steps of the descent.")] = 5000,
    num_pairs: Annotated[int, typer.Option(help="Pairs of opposite noise of NSO.")] = 1,
    sigma: Annotated[
        float, typer.Option(help="σ, standard deviation of the noise in each weight.")
    ] = 0.08,
) -> None:
    """Recover a 100 × 100 matrix of rank 5 by gradient descent, by weight noise and by NSO.

    All three fit 2,500 measurements of it. Weights with a small trace of the Hessian generalise
    to the rest of the matrix: noise finds them, plain descent does not.
    """
    from hessdiag.cli import console
    from hessdiag.training.sensing import Settings
    from hessdiag.training.sensing import sensing as descend

    results.check_targets(output)
    settings = Settings(
        steps=steps,
        num_pairs=num_pairs,
        sigma=sigma,
        seed=random.seed,
        dtype=arithmetic.dtype,
        device=machine.device,
    )
    with console.progress("sensing", quiet=output.quiet) as bar:
        found = descend(settings, bar.show)
    results.show(found, output)
