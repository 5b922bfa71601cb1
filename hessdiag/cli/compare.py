"""``hessdiag compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hessdiag.cli import options, results
from hessdiag.errors import InputError, unknown

if TYPE_CHECKING:
    from hessdiag.comparisons.comparison_run import Comparison
    from hessdiag.reports.comparison.schema import Provenances

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
    part: Annotated[
        list[str] | None,
        typer.Option(help="all, hessian, gn or nme; may be repeated. Default: all."),
    ] = None,
    top_k: Annotated[int, typer.Option(help="Eigenvalues at each end.")] = 5,
    num_probes: Annotated[int, typer.Option(help="Probes of traces and norms.")] = 32,
    density: Annotated[bool, typer.Option(help="Spectral densities.")] = True,
    params: Annotated[
        list[str] | None,
        typer.Option(help="Only parameters whose name matches this glob; may be repeated."),
    ] = None,
    basis_size: Annotated[
        int | None, typer.Option(help="Lanczos vectors kept for each part.")
    ] = None,
    block_size: Annotated[
        int | None,
        typer.Option(
            help="Lanczos vectors multiplied at once; multiplicities are right up to it.",
        ),
    ] = None,
    depth: Annotated[int, typer.Option(help="Lanczos steps behind the density.")] = 24,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Residual over spectral scale of a converged eigenvalue. Default: 1e-3, or 1e-10 "
            "in float64.",
        ),
    ] = None,
    max_passes: Annotated[int, typer.Option(help="Passes Lanczos may take.")] = 100,
    allow_different_data: Annotated[
        bool,
        typer.Option(
            "--allow-different-data", help="Compare reports on different, or on unknown, samples."
        ),
    ] = False,
    model: options.Model = None,
    activation: options.Activation = None,
    beta: options.Beta = None,
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
    """What changed between two networks, and how surely: B − A with intervals.

    Two checkpoints meet the same samples (those of A's metadata, or of --data) and the same
    probes, whose noise then cancels in the differences; the eigenspaces of their largest
    eigenvalues are compared too. Two reports are compared by the numbers that they hold.
    """
    from hessdiag.reports.comparison.plot import comparison_figure
    from hessdiag.reports.comparison.schema import comparison_json
    from hessdiag.reports.comparison.text import comparison_text

    results.check_targets(json=json, plot=plot)
    if plot is not None and not density:
        raise InputError("--plot draws the densities", got="--no-density")
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
        found, provenances = _of_reports(a, b, allow_different_data=allow_different_data)
    else:
        if allow_different_data:
            raise InputError(
                "checkpoints are compared on the same data",
                got="--allow-different-data",
                hint="compare two reports of hessdiag spectrum",
            )
        found, provenances = _of_checkpoints(
            (a, b),
            quiet=quiet,
            parts=part,
            spectrum={
                "params": params,
                "bn": bn,
                "seed": seed,
                "top_k": top_k,
                "num_probes": num_probes,
                "density": density,
                "basis_size": basis_size,
                "block_size": block_size,
                "depth": depth,
                "tolerance": tolerance,
                "max_passes": max_passes,
            },
            subject={
                "model": model,
                "activation": activation,
                "beta": beta,
                "data": data,
                "split": split,
                "num_samples": num_samples,
                "batch_size": batch_size,
                "loss": loss,
                "bn": bn,
                "device": device,
                "dtype": dtype,
                "seed": seed,
                "data_root": data_root,
                "download": download,
            },
        )
    results.deliver(
        json=json,
        plot=plot,
        quiet=quiet,
        payload=lambda: comparison_json(found, provenances),
        figure=lambda: comparison_figure(found, provenances),
        text=lambda: comparison_text(found, provenances),
    )


def _of_reports(a: str, b: str, *, allow_different_data: bool) -> tuple[Comparison, Provenances]:
    from hessdiag.comparisons.comparison_run import check_same_data, compare_reports
    from hessdiag.reports.spectrum.reading import read_spectrum

    (first, origin), (second, other) = read_spectrum(a), read_spectrum(b)
    if not allow_different_data:
        check_same_data(origin, other, hint="--allow-different-data compares them all the same")
    return compare_reports(first, second), (origin, other)


def _of_checkpoints(
    paths: tuple[str, str],
    *,
    quiet: bool,
    parts: list[str] | None,
    spectrum: dict[str, Any],
    subject: dict[str, Any],
) -> tuple[Comparison, Provenances]:
    from hessdiag import compare as compute
    from hessdiag.cli import console
    from hessdiag.comparisons.comparison_run import check_same_data
    from hessdiag.curvature.decomposition import PARTS
    from hessdiag.spectra.spectrum_run import Progress
    from hessdiag.subject import load

    chosen = tuple(dict.fromkeys(parts or ["all"]))
    for name in chosen:
        if name not in ("all", *PARTS):
            raise unknown("part", name, ("all", *PARTS))
    with console.progress("compare", quiet=quiet) as bar:
        first = load(paths[0], **subject)
        second = load(paths[1], **dict(subject, data=first.data.spec, loss=first.loss))
        provenances = first.provenance(), second.provenance()
        check_same_data(*provenances, hint="do the networks scale their inputs differently?")

        def show(state: Progress) -> None:
            bar.update(state.passes, state.expected, f"pass {int(state.passes) + 1}")

        found = compute(
            first.model,
            second.model,
            min(first, second, key=lambda of: of.batch_size).batches(),
            loss=first.loss,
            dtype=first.dtype,
            on_progress=show,
            parts=PARTS if "all" in chosen else chosen,
            **spectrum,
        )
    return found, provenances
