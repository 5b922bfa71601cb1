"""``hessdiag spectrum``."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import TYPE_CHECKING, Annotated

import typer

from hessdiag.cli import options, results
from hessdiag.spectra.spectrum_settings import Settings
from hessdiag.subject_options import SubjectOptions

if TYPE_CHECKING:
    from hessdiag.progress import Watch
    from hessdiag.spectra.spectrum_result import Report


def spectrum(
    settings: Settings,
    which: options.ParameterOptions,
    sharing: options.ShardOptions,
    subject: SubjectOptions,
    many: options.JobOptions,
    output: options.OutputOptions,
    checkpoint: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"{options.CHECKPOINT} Without one: --model names a factory. Of several: a table, "
            "and with --json DIR/ a report each."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Of several: measure those again that have a report.")
    ] = False,
) -> None:
    """Traces, extreme eigenvalues and spectral densities of the Hessian and its two parts.

    The Hessian H of the mean loss is the sum of the Gauss-Newton part G and the Nonlinear Modeling
    Error N. Every number comes with its error: sampled ones with standard error and 95 % interval,
    eigenvalues with a residual bound.

    Of several checkpoints, those that have the report of the same options in --json DIR/ are left.
    """
    from hessdiag.cli import console, spectra

    paths = list(dict.fromkeys(checkpoint or ()))
    is_folder = (output.json or "").endswith(os.sep)
    if len(paths) > 1 or (paths and (is_folder or many.jobs or many.slurm)):
        spectra.measure(paths, settings, which, sharing, subject, many, output, force=force)
        return
    results.check_targets(output)
    results.check_densities(output, settings)
    with console.progress("spectrum", quiet=output.quiet) as bar:
        report = measured(paths[0] if paths else None, settings, which, sharing, subject, bar.show)
    results.show(report, output)


def measured(
    checkpoint: str | None,
    settings: Settings,
    which: options.ParameterOptions,
    sharing: options.ShardOptions,
    subject: SubjectOptions,
    on_progress: Watch | None = None,
    known: Report | None = None,
) -> Report:
    """Load a network and its data, and measure its spectrum, unless it is the one ``known``."""
    from msgspec import structs

    from hessdiag import spectrum as compute
    from hessdiag.linalg import processes
    from hessdiag.subjects.subject import load

    found = load(checkpoint, subject, as_built=checkpoint is None)
    provenance, request = found.provenance(), _request(settings, which, subject)
    if processes.agreed(
        known is not None
        and known.request == request
        and known.checkpoint.sha256 == provenance.checkpoint_sha256
        and known.data.sha256 == provenance.data_sha256
    ):
        assert known is not None
        return known
    report = compute(
        found.model,
        found.batches(),
        loss=found.loss,
        output=found.output,
        params=which.params,
        unchecked=which.unchecked,
        bn=subject.bn,
        dtype=found.dtype,
        shard=processes.mesh(sharing.shard, copies=sharing.copies),
        on_progress=on_progress,
        settings=settings,
    )
    return structs.replace(report.of(provenance), request=request)


def _request(settings: Settings, which: options.ParameterOptions, subject: SubjectOptions) -> str:
    """Hash what decides the numbers, but for checkpoint and data."""
    alike = dataclasses.replace(subject, device="auto", data_root=None, download=False)
    return hashlib.sha256(repr((settings, which, alike)).encode()).hexdigest()[:16]
