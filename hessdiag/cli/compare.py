"""``hessdiag compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hessdiag.cli import options, results
from hessdiag.errors import InputError
from hessdiag.spectra.spectrum_settings import EstimatorSettings
from hessdiag.subject_options import SubjectOptions

if TYPE_CHECKING:
    from hessdiag.cli.console import Bar
    from hessdiag.comparisons.compare_result import Comparison

_OF_REPORTS = frozenset(("a", "b", "allow_different_data", "json", "plot", "quiet"))
"""Parameters that mean something for two reports."""


def compare(
    ctx: typer.Context,
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="A checkpoint, or a JSON report of hessdiag spectrum: what was."
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Another of the same kind: what is now.")],
    settings: EstimatorSettings,
    which: options.ParameterOptions,
    sharing: options.ShardOptions,
    subject: SubjectOptions,
    output: options.OutputOptions,
    allow_different_data: Annotated[
        bool,
        typer.Option(
            "--allow-different-data", help="Compare reports on different, or on unknown, samples."
        ),
    ] = False,
) -> None:
    """What changed between two networks, and how surely: B − A with intervals.

    Two checkpoints meet the same samples (those of A's metadata, or of --data) and the same
    probes, whose noise then cancels in the differences; the eigenspaces of their largest
    eigenvalues are compared too. Two reports are compared by the numbers that they hold.
    """
    from hessdiag.cli import console

    results.check_targets(output)
    results.check_densities(output, settings)
    are_reports = [Path(path).suffix.lower() == ".json" for path in (a, b)]
    if are_reports[0] != are_reports[1]:
        raise InputError(
            "a report can only be compared with a report",
            got=f"{a} and {b}",
            wanted="two checkpoints, or two .json reports of hessdiag spectrum",
        )
    if are_reports[0]:
        if given := options.given(ctx, but=_OF_REPORTS):
            raise InputError(
                f"{', '.join(given)} cannot be applied to reports",
                got="two reports, which are compared as they are",
                hint="compare the checkpoints",
            )
        found = _of_reports(a, b, allow_different_data=allow_different_data)
    else:
        if allow_different_data:
            raise InputError(
                "checkpoints are compared on the same data",
                got="--allow-different-data",
                hint="compare two reports of hessdiag spectrum",
            )
        with console.progress("compare", quiet=output.quiet) as bar:
            found = _of_checkpoints(a, b, settings, which, sharing, subject, bar)
    results.show(found, output)


def _of_reports(a: str, b: str, *, allow_different_data: bool) -> Comparison:
    from hessdiag import results as stored
    from hessdiag.comparisons.compare_run import check_same_data, compare_reports
    from hessdiag.spectra.spectrum_result import Report

    first, second = (stored.read(path, Report) for path in (a, b))
    if not allow_different_data:
        hint = "--allow-different-data compares them all the same"
        check_same_data(first.data.sha256, second.data.sha256, hint=hint)
    return compare_reports(first, second)


def _of_checkpoints(
    a: str,
    b: str,
    settings: EstimatorSettings,
    which: options.ParameterOptions,
    sharing: options.ShardOptions,
    subject: SubjectOptions,
    bar: Bar,
) -> Comparison:
    from hessdiag import compare as compute
    from hessdiag.comparisons.compare_run import check_same_data
    from hessdiag.linalg import processes
    from hessdiag.subjects.subject import load

    first = load(a, subject)
    second = load(b, subject, data=first.data.spec, loss=first.loss)
    check_same_data(
        first.data.sha256,
        second.data.sha256,
        hint="do the networks scale their inputs differently?",
    )
    found = compute(
        first.model,
        second.model,
        min(first, second, key=lambda of: of.batch_size).batches(),
        loss=first.loss,
        output=first.output,
        params=which.params,
        unchecked=which.unchecked,
        bn=subject.bn,
        dtype=first.dtype,
        shard=processes.mesh(sharing.shard, copies=sharing.copies),
        on_progress=bar.show,
        settings=settings,
    )
    return found.located(first.provenance(), second.provenance())
