"""Run the studies: each run once, whichever findings need it; then read off the verdicts."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hessdiag.codec import read as read_json
from hessdiag.findings import run_statistics
from hessdiag.findings.finding import Design, Finding, Statement, verdict
from hessdiag.findings.reproduction_result import (
    Judged,
    Point,
    Reproduced,
    Reproduction,
    StudyReport,
)
from hessdiag.jobs.task import Engine
from hessdiag.linalg.paired import Difference
from hessdiag.progress import Watch
from hessdiag.training import folder, recipes, sweep
from hessdiag.training.configure import configure
from hessdiag.training.history import Epoch, Finished
from hessdiag.training.run_config import Config
from hessdiag.training.trials import Cell, Sweep, Trial

TIMES = "seconds.json"
Numbers = Mapping[str, Mapping[str, float | None]]
"""Statistics by choice."""


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        findings: those wanted.
        scale: "small" or "paper".
        seeds: of every run.
        changes: fields of all recipes, such as ``data``.
        options: fields of all configurations, such as ``data_root``.
    """

    findings: Sequence[Finding]
    scale: str
    seeds: Sequence[int]
    changes: Mapping[str, Any]
    options: Mapping[str, Any]

    def configs(self, design: Design, seed: int) -> dict[str, Config]:
        """Configure the run of each choice; none where nothing is trained."""
        if design.compute is not None:
            return {}
        return {
            name: configure(
                design.recipe,
                changes={**design.changes, **choice.changes, **self.changes},
                strengths=choice.strengths,
                seed=seed,
                **{**design.options, **self.options},
            )
            for name, choice in design.choices.items()
        }

    def runs(self, seed: int) -> dict[str, Config]:
        """Collect the runs of a seed, each once, by the names of their folders."""
        found: dict[str, Config] = {}
        for finding in self.findings:
            for design in finding.designs[self.scale]:
                found |= {name_of(run): run for run in self.configs(design, seed).values()}
        return found


def name_of(config: Config) -> str:
    """Name the folder of a run: what people look for, and a hash of all that it is made of."""
    recipe = config.recipe
    words = (recipe.method.name, recipe.activation, recipe.model.rpartition(":")[2])
    return "-".join([*filter(None, words), config.digest[:10]])


def run(
    plan: Plan,
    out: Path,
    *,
    engine: Engine | None = None,
    device: torch.device | str = "cpu",
    download: bool = False,
    on_step: Watch | None = None,
) -> Generator[Reproduction]:
    """Train what is not trained yet, seed by seed, and report after each seed.

    Args:
        plan: what is to be run.
        out: folder; runs that are finished there are taken as they are.
        engine: what trains many runs at once; None for one after another in this process.
        device: where to train.
        download: whether torchvision may download data and weights.
        on_step: called with (runs done, a fraction of one included; runs to be done; name).

    Yields:
        The report as far as it is known.

    Raises:
        InputError: data that cannot be loaded; a folder that cannot be written.
    """
    trials = {
        seed: [Trial(f"{_place(seed)}/{name}", config) for name, config in plan.runs(seed).items()]
        for seed in plan.seeds
    }
    cells = [
        Cell(of_seed[0].name, own.method.name, own.recipe.activation, own.recipe.beta, {}, of_seed)
        for of_seed in zip(*trials.values(), strict=True)
        if (own := of_seed[0].config)
    ]
    num_known = 0
    with folder.owned(out):
        work = {"engine": engine, "device": device, "download": download, "on_step": on_step}
        for now in _trained(Sweep(cells), out, **work):
            ended = {trial.config.seed for trial in now.trials}
            ended -= {t.config.seed for t in now.trials if not t.epochs and t.failure is None}
            if len(ended) > num_known or not cells:
                num_known = len(ended)
                seeds = [seed for seed in plan.seeds if seed in ended or not cells]
                yield report(plan, out, seeds)


def _trained(cells: Sweep, out: Path, **work: Any) -> Generator[Sweep]:
    if not cells.cells:
        yield cells
        return
    for now in sweep.run(cells, out / _RUNS, on_finished=_keep_time, **work):
        for trial in now.trials:
            if trial.failure is not None:
                said = out / _RUNS / f"{trial.name}.failed"
                said.parent.mkdir(parents=True, exist_ok=True)
                said.write_text(f"{trial.failure}\n")
        yield now


def _keep_time(finished: Finished) -> None:
    (finished.checkpoint.parent / TIMES).write_text(f"{finished.seconds:.3f}\n")


_RUNS = "runs"


def _place(seed: int) -> str:
    return f"seed-{seed}"


def report(plan: Plan, out: Path, seeds: Sequence[int]) -> Reproduction:
    """Read the finished runs of these seeds, and judge."""
    found = tuple(
        Reproduced(
            number=finding.number,
            name=finding.name,
            claim=finding.claim,
            source=finding.source,
            sketch={label: tuple(curve) for label, curve in finding.sketch.items()},
            studies=tuple(
                _study(plan, design, out, seeds) for design in finding.designs[plan.scale]
            ),
        )
        for finding in plan.findings
    )
    notes = ["intervals are Student's over the seeds; a finding's hold together with 95 %"]
    if len(seeds) < 5:
        notes.append(f"{len(seeds)} seeds tell little: take 5 at least")
    return Reproduction(scale=plan.scale, seeds=tuple(seeds), findings=found, notes=tuple(notes))


def _study(plan: Plan, design: Design, out: Path, seeds: Sequence[int]) -> StudyReport:
    needed = _needed(design)
    numbers: dict[int, Numbers] = {}
    finished, seconds = 0, 0.0
    failures: dict[str, None] = {}
    summary = ""
    for seed in seeds:
        if design.compute is not None:
            numbers[seed] = design.compute(seed)
            finished += len(design.choices)
            continue
        own: dict[str, dict[str, float | None]] = {}
        for name, config in plan.configs(design, seed).items():
            summary = summary or recipes.summary(config.recipe)
            place = out / _RUNS / _place(seed) / name_of(config)
            failed = place.with_name(f"{place.name}.failed")
            if folder.is_finished(place, config):
                epochs = [Epoch.from_row(row) for row in folder.read_metrics(place)]
                own[name] = {
                    key: run_statistics.read(key, config, epochs, place) for key in needed[name]
                }
                finished += 1
                seconds += read_json(float, place / TIMES) if (place / TIMES).exists() else 0.0
            elif failed.exists():
                failures[f"{name}, seed {seed}: {failed.read_text().strip()}"] = None
        numbers[seed] = own
    judged = tuple(judge(each, numbers, design.confidence) for each in design.statements)
    return StudyReport(
        recipe=design.recipe,
        summary=summary,
        axis=design.axis,
        statistic=design.shown,
        num_runs=len(design.choices) * len(seeds),
        num_finished=finished,
        seconds=seconds,
        statements=judged,
        points=tuple(
            Point(name, choice.curve, choice.at, _mean(numbers, name, design.shown))
            for name, choice in design.choices.items()
        ),
        verdict=verdict([each.verdict for each in judged]),
        failures=tuple(failures),
    )


def _needed(design: Design) -> dict[str, set[str]]:
    """List the statistics that the chart and the statements take of each choice."""
    needed = {name: {design.shown} for name in design.choices}
    for statement in design.statements:
        for term in statement.terms:
            needed[term.choice].add(term.statistic)
    return needed


def judge(statement: Statement, numbers: Mapping[int, Numbers], confidence: float) -> Judged:
    """Sum the terms seed by seed, leaving out seeds that lack one, and compare with the claim."""
    sums: dict[int, float] = {}
    for seed, by_choice in numbers.items():
        values = [by_choice.get(term.choice, {}).get(term.statistic) for term in statement.terms]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            weights = (term.weight for term in statement.terms)
            sums[seed] = sum(w * value for w, value in zip(weights, known, strict=True))
    found = Difference.of(sums.values(), confidence)
    return Judged(
        statement.says,
        statement.claim,
        statement.margin,
        sums,
        found,
        statement.judge(found and found.interval),
    )


def _mean(numbers: Mapping[int, Numbers], name: str, statistic: str) -> Difference | None:
    values = (by_choice.get(name, {}).get(statistic) for by_choice in numbers.values())
    return Difference.of(value for value in values if value is not None)
