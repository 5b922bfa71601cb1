"""``hessdiag spectrum``."""

from __future__ import annotations

from typing import Annotated

import typer

from hessdiag.cli import options, results


def spectrum(
    checkpoint: options.Checkpoint,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="all, hessian, gn or nme; may be repeated. Default: all.",
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(help="Eigenvalues at each end.")] = 5,
    num_probes: Annotated[int, typer.Option(help="Probes of traces and norms.")] = 32,
    rel_error: Annotated[
        float | None,
        typer.Option(
            help="Sample until each trace's 95 % interval is this narrow, relative to the trace.",
        ),
    ] = None,
    max_probes: Annotated[int, typer.Option(help="Budget of --rel-error.")] = 1024,
    density: Annotated[bool, typer.Option(help="Spectral densities.")] = True,
    per_layer: Annotated[bool, typer.Option("--per-layer", help="Traces by layer.")] = False,
    params: Annotated[
        list[str] | None,
        typer.Option(
            help="Only parameters whose name matches this glob; may be repeated.",
        ),
    ] = None,
    basis_size: Annotated[
        int | None,
        typer.Option(help="Lanczos vectors kept for each part."),
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
    finite_radius: Annotated[
        float | None,
        typer.Option(
            help="Also take the curvature over steps of this size in each weight, which sees the "
            "kinks that the Hessian of a ReLU network does not.",
        ),
    ] = None,
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
    """Traces, extreme eigenvalues and spectral densities of the Hessian and its two parts.

    The Hessian H of the mean loss is the sum of the Gauss-Newton part G and the Nonlinear Modeling
    Error N. Every number comes with its error: sampled ones with standard error and 95 % interval,
    eigenvalues with a residual bound.
    """
    from hessdiag import spectrum as compute
    from hessdiag import subject
    from hessdiag.cli import console
    from hessdiag.curvature.decomposition import PARTS
    from hessdiag.errors import InputError, unknown
    from hessdiag.linalg import processes
    from hessdiag.reports.spectrum.plot import spectrum_figure
    from hessdiag.reports.spectrum.schema import spectrum_json
    from hessdiag.reports.spectrum.text import spectrum_text
    from hessdiag.spectra.spectrum_run import Progress

    results.check_targets(json=json, plot=plot)
    if plot is not None and not density:
        raise InputError("--plot draws the densities", got="--no-density")
    parts = tuple(dict.fromkeys(part or ["all"]))
    for name in parts:
        if name not in ("all", *PARTS):
            raise unknown("part", name, ("all", *PARTS))
    with console.progress("spectrum", quiet=quiet) as bar:
        with processes.in_turn():  # the first one downloads, the others find what it got
            found = subject.load(
                checkpoint,
                model=model,
                activation=activation,
                beta=beta,
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

        def show(state: Progress) -> None:
            bar.update(state.passes, state.expected, f"pass {int(state.passes) + 1}")

        report = compute(
            found.model,
            found.batches(),
            loss=found.loss,
            params=params,
            bn=bn,
            dtype=found.dtype,
            on_progress=show,
            parts=PARTS if "all" in parts else parts,
            num_probes=num_probes,
            top_k=top_k,
            density=density,
            per_layer=per_layer,
            rel_error=rel_error,
            max_probes=max_probes,
            depth=depth,
            basis_size=basis_size,
            block_size=block_size,
            tolerance=tolerance,
            max_passes=max_passes,
            finite_radius=finite_radius,
            seed=seed,
        )
    provenance = found.provenance()
    results.deliver(
        json=json,
        plot=plot,
        quiet=quiet,
        payload=lambda: spectrum_json(report, provenance),
        figure=lambda: spectrum_figure(report, provenance),
        text=lambda: spectrum_text(report, provenance),
    )
