"""``hessdiag spectrum``."""

from __future__ import annotations

from typing import Annotated

import typer

from hessdiag.cli import options, results
from hessdiag.spectra.spectrum_settings import Settings
from hessdiag.subject_options import SubjectOptions


def spectrum(
    settings: Settings,
    which: options.ParameterOptions,
    sharing: options.ShardOptions,
    subject: SubjectOptions,
    output: options.OutputOptions,
    checkpoint: Annotated[
        str | None,
        typer.Argument(help=f"{options.CHECKPOINT} Without one: --model names a factory."),
    ] = None,
) -> None:
    """Traces, extreme eigenvalues and spectral densities of the Hessian and its two parts.

    The Hessian H of the mean loss is the sum of the Gauss-Newton part G and the Nonlinear Modeling
    Error N. Every number comes with its error: sampled ones with standard error and 95 % interval,
    eigenvalues with a residual bound.
    """
    from hessdiag import spectrum as compute
    from hessdiag.cli import console
    from hessdiag.linalg import processes
    from hessdiag.subjects.subject import load

    results.check_targets(output)
    results.check_densities(output, settings)
    with console.progress("spectrum", quiet=output.quiet) as bar:
        with processes.in_turn():  # the first one downloads, the others find what it got
            found = load(checkpoint, subject, as_built=checkpoint is None)
        report = compute(
            found.model,
            found.batches(),
            loss=found.loss,
            output=found.output,
            params=which.params,
            unchecked=which.unchecked,
            bn=subject.bn,
            dtype=found.dtype,
            shard=processes.mesh(sharing.shard, copies=sharing.copies) or False,
            on_progress=bar.show,
            settings=settings,
        )
    results.show(report.of(found.provenance()), output)
