"""``hessdiag gate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hessdiag.cli import options, paths, results
from hessdiag.errors import InputError, Verdict
from hessdiag.metrics import metric_table
from hessdiag.subject_options import SubjectOptions

if TYPE_CHECKING:
    from hessdiag.gates.gate_result import GateReport

EXIT_CODES = {"pass": 0, "fail": 1, "inconclusive": 3}
EXAMPLE = "hessdiag gate model.safetensors --max hessian.trace=120 --min accuracy=0.95"


def gate(
    subject: Annotated[
        str, typer.Argument(help="A checkpoint, measured now, or a JSON report of any command.")
    ],
    which: options.ParameterOptions,
    sharing: options.ShardOptions,
    network: SubjectOptions,
    output: options.OutputOptions,
    max_: Annotated[
        list[str] | None,
        typer.Option(
            "--max",
            metavar="METRIC=VALUE",
            help=f"Upper limit; may be repeated. METRIC is one of {metric_table.FORMS}; <part> is "
            "hessian, gn or nme, <i> a place from 0.",
        ),
    ] = None,
    min_: Annotated[
        list[str] | None,
        typer.Option("--min", metavar="METRIC=VALUE", help="Lower limit; may be repeated."),
    ] = None,
    max_increase: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=10%",
            help="Limit of the increase over the baseline, in % or absolute; may be repeated.",
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="A JSON report that increases are counted from.")
    ] = None,
    write_baseline: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="If the gate passes, keep what it measured as a baseline; without limits: all of "
            "trace, norm, extreme eigenvalues, loss and accuracy.",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="A TOML file of limits. Default: [gate] of hessdiag.toml, else "
            "[tool.hessdiag.gate] of pyproject.toml. Options win.",
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(help="With which all sampled verdicts together are right.  [default: 0.95]"),
    ] = None,
    max_probes: Annotated[
        int | None, typer.Option(help="Probes to spend until all is decided.  [default: 1024]")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Seconds after which no more probes are added.")
    ] = None,
    junit: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the verdicts as JUnit XML.")
    ] = None,
    gitlab: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write GitLab's code quality JSON.")
    ] = None,
) -> None:
    """Hold metrics against limits; the exit code is the verdict: 0 pass, 1 fail, 3 inconclusive.

    Probes are added until every limit is decided, or the budget is spent.
    """
    from hessdiag.cli import console
    from hessdiag.gates import gate_run, limits
    from hessdiag.linalg import processes
    from hessdiag.subjects.subject import load

    results.check_targets(output, write_baseline, junit, gitlab)
    found = limits.find(config)
    given = {"max": max_, "min": min_, "max-increase": max_increase}
    chosen = limits.override(
        found.limits, [limits.parse(kind, text) for kind in given for text in given[kind] or ()]
    )
    if not chosen and write_baseline is None:
        raise InputError("there is no limit", wanted=f"limits, as in: {EXAMPLE}")
    settings: dict[str, Any] = {
        "baseline": baseline or found.baseline,
        **found.settings,
        **({} if confidence is None else {"confidence": confidence}),
    }
    paths.check(
        {
            **{"json": output.json, "junit": junit, "gitlab": gitlab},
            **{"write_baseline": write_baseline, "baseline": settings["baseline"]},
        }
    )
    budget = {"max_probes": max_probes, "max_seconds": max_seconds}
    settings |= {name: value for name, value in budget.items() if value is not None}
    if subject.lower().endswith(".json"):
        if write_baseline is not None:
            raise InputError(
                "--write-baseline keeps what was measured, and nothing is",
                got=subject,
                hint=f"the report is a baseline by itself: --baseline {subject}",
            )
        report = gate_run.review(
            subject,
            chosen,
            baseline=settings["baseline"],
            confidence=settings.get("confidence", 0.95),
        )
    else:
        with console.progress("gate", quiet=output.quiet) as bar:
            loaded = load(subject, network)
            report = gate_run.gate(
                loaded.model,
                loaded.batches(),
                chosen,
                loss=loaded.loss,
                output=loaded.output,
                params=which.params,
                unchecked=which.unchecked,
                bn=network.bn,
                dtype=loaded.dtype,
                shard=processes.mesh(sharing.shard, copies=sharing.copies),
                seed=network.seed,
                on_progress=bar.show,
                **settings,
            )
            report = report.of(loaded.provenance())
    report = report.on(subject)
    results.show(report, output)
    _serve(report, subject, junit=junit, gitlab=gitlab, to_stderr=output.json == "-")
    if write_baseline is not None and report.verdict == "pass":
        from hessdiag import files

        files.write_text(write_baseline, report.to_json())
    raise Verdict(EXIT_CODES[report.verdict])


def _serve(
    report: GateReport, subject: str, *, junit: str | None, gitlab: str | None, to_stderr: bool
) -> None:
    """Write what services read; GitHub is known by its environment."""
    import os
    import sys

    from hessdiag import files
    from hessdiag.cli import console
    from hessdiag.gates import gate_services as services

    if junit is not None:
        files.write_text(junit, services.junit(report, subject))
    if gitlab is not None:
        files.write_text(gitlab, services.gitlab(report, subject))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        stream: Any = sys.stderr if to_stderr else sys.stdout
        for line in services.workflow_commands(report, subject):
            getattr(stream, "command", stream.write)(f"{line}\n")
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            files.append_text(summary, services.summary(report, subject))
        except InputError as error:  # which nobody asked for: the verdict stands
            console.note(f"there is no step summary: {error}")
