"""``hessdiag reproduce``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hessdiag.cli import options, results
from hessdiag.cli.sweep import LOADED
from hessdiag.errors import InputError, unknown
from hessdiag.subject_options import DataOptions, DeviceOption

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hessdiag.findings.reproduction_run import Plan

SCALES = ("small", "paper")
REPORT, PAGE = "reproduction.json", "index.html"


def reproduce(
    data: DataOptions,
    machine: DeviceOption,
    many: options.JobOptions,
    output: options.OutputOptions,
    finding: Annotated[
        list[str] | None,
        typer.Argument(help="Numbers or names; none for all. The word list lists them."),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="small: redrawn digits, on a laptop; paper: the full recipes.")
    ] = "small",
    seeds: Annotated[int, typer.Option(help="Seeds of every run.", min=1)] = 5,
    first_seed: Annotated[int, typer.Option(help="The first of them.", min=0)] = 10,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print runs, steps, images and estimated GPU hours.")
    ] = False,
    out: Annotated[
        str | None, typer.Option(help="Folder of runs and page. Default: runs/reproduce-<scale>.")
    ] = None,
) -> None:
    """Show the papers' findings, or say that they do not appear.

    Each finding is a study that was declared beforehand: a grid of runs, the paper's claims as
    statements on differences paired by seed, and a verdict from their intervals: shown,
    contradicted, cannot tell. OUT holds the runs, a JSON report and a page. The same command goes
    on where it was stopped.
    """
    from pathlib import Path

    if not dry_run:
        many.prepare(*LOADED)
    from hessdiag import files
    from hessdiag.cli import console
    from hessdiag.findings import finding_table, reproduction_run
    from hessdiag.show.page import page

    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    names = list(finding or [])
    lists = names[:1] == ["list"]
    plan = reproduction_run.Plan(
        finding_table.chosen(names[1:] if lists else names),
        scale,
        range(first_seed, first_seed + seeds),
        {"data": data.data}
        | ({} if data.label_noise is None else {"label_noise": data.label_noise}),
        {} if data.data_root is None else {"data_root": data.data_root},
    )
    if lists or dry_run:
        for line in _listed(plan, each=dry_run):
            print(line)
        return
    results.check_targets(output)
    place = Path(out or f"runs/reproduce-{scale}")
    found = None
    with console.progress("reproduce", quiet=output.quiet) as bar:
        for found in reproduction_run.run(
            plan,
            place,
            engine=many.engine(place / "jobs", machine.device),
            device=machine.device,
            download=data.download,
            on_step=bar.show,
        ):
            files.write_text(place / REPORT, found.to_json())
            files.write_text(place / PAGE, page([found.document()]))
    if found is None:
        raise InputError("there is nothing to run", got="no seeds")
    results.show(found, output)


def _listed(plan: Plan, *, each: bool) -> Iterator[str]:
    """Say what the studies take; with ``each``, run by run."""
    from hessdiag.findings.gpu_hours import SUSTAINED, estimates

    count = len(plan.seeds)
    for finding in plan.findings:
        yield f"{finding.number} {finding.name}: {finding.claim} [{finding.source}]"
        for design in finding.designs[plan.scale]:
            if design.compute is not None:
                yield "    computed, without training, in seconds"
                continue
            found = list(estimates(plan, design))
            data = next(iter(plan.configs(design, plan.seeds[0]).values())).recipe.data
            yield (
                f"    {design.recipe} on {data}: {len(found)} runs × {count} seeds, "
                f"{count * sum(e.steps for e in found):,} steps, "
                f"{count * sum(e.images for e in found):,} images, "
                f"about {count * sum(e.hours for e in found):,.3g} GPU hours"
            )
            for one in found if each else ():
                yield (
                    f"        {one.choice}: {one.steps:,} steps, {one.images:,} images, "
                    f"{one.hours:.3g} h a seed"
                )
    yield (
        f"GPU hours: {SUSTAINED / 1e12:.0f} TFLOP/s sustained, the methods' ideal costs, tracking "
        "not counted; a folder of images is taken to hold 5,000"
    )
