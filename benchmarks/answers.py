"""Time until an answer can be trusted, here and by peers; a table, and JSON on request.

    uv run --group bench python benchmarks/answers.py --cases "mlp,wrn10-1 gelu" --json FILE

Asked of H, G and N of trained networks, each alone and all together:

* trace: its 95 % interval has a half-width of 2 % of the trace; of tr G, where tr N is smaller.
* eigenvalues: the five largest of H and G, five at both ends of N, with residuals within 1e-3 of
  the spectral norm.
* density: within 2 % of the spectrum's width of that of a long run (Wasserstein).

All libraries take turns in every round, at settings that just meet the target (``peers.py``). A
peer is stopped at 20 times our time. To peers, an answer about several parts is the sum of those
about each; the best peer is the cheapest for each. Memory is what an answer takes beyond what was
there before. What was answered is compared with long runs: the largest error, over the target.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import peers
import torch
import typer
from products import describe
from rich.console import Console
from rich.table import Column, Table
from scipy.stats import wasserstein_distance
from trained import NETWORKS, Problem

import hessdiag
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.data.datasets import load
from hessdiag.linalg import devices
from hessdiag.parts import PARTS

PRECISION, RESIDUAL, DISTANCE = 0.02, 1e-3, 0.02
PATIENCE = 20
SINGLE = tuple((kind, (part,)) for kind in ("trace", "eigenvalues", "density") for part in PARTS)
JOINT = tuple((kind, PARTS) for kind in ("trace", "eigenvalues", "density", "all"))
Question = tuple[str, tuple[str, ...]]


class Truth:
    """Long runs on which targets and checks rest."""

    def __init__(self, problem: Problem) -> None:
        report = hessdiag.spectrum(
            problem.model,
            problem.batches,
            rel_error=PRECISION / 2,
            max_probes=2048,
            top_k=peers.TOP,
            depth=64,
            block_size=8,
        )
        self.parts: Mapping[str, Any] = report.parts
        self.scale = {
            name: max(part.top[0].value, -part.bottom[0].value) for name, part in self.parts.items()
        }
        traces = {name: abs(part.trace.value) for name, part in self.parts.items()}
        self.half_width = {name: PRECISION * trace for name, trace in traces.items()}
        self.half_width["nme"] = PRECISION * max(traces["nme"], traces["gn"])

    def resolved(self, part: str, values: peers.Array, residuals: peers.Array) -> bool:
        """Tell whether the outermost Ritz values, ascending, are those wanted."""
        wanted = [*range(-peers.TOP, 0), *(range(peers.TOP) if part == "nme" else ())]
        near = np.abs(values[wanted] - self.eigenvalues(part)) <= 2 * RESIDUAL * self.scale[part]
        return bool(near.all() and residuals[wanted].max() <= RESIDUAL * self.scale[part])

    def eigenvalues(self, part: str) -> peers.Array:
        """The five largest, ascending; of N, then the five smallest, ascending."""
        top, bottom = self.parts[part].top, self.parts[part].bottom
        smallest = [v.value for v in bottom] if part == "nme" else []
        return np.array([*(v.value for v in top[::-1]), *smallest])

    def distance(self, part: str, nodes: Any, weights: Any) -> float:
        """Compare a density with that of the long run, in widths of the spectrum."""
        exact = self.parts[part].density
        width = self.parts[part].top[0].value - self.parts[part].bottom[0].value
        return wasserstein_distance(exact.nodes, nodes, exact.weights, weights) / width


@dataclass
class Contender:
    """A library's way to one answer."""

    library: str
    question: Question
    run: Callable[[], Any]
    at: peers.Matvec | None = None
    seconds: list[float] = field(default_factory=list[float])
    products: int = 0
    memory: int = 0
    gave_up: bool = False


def ours(problem: Problem, truth: Truth, efforts: Mapping[str, peers.Effort]) -> list[Contender]:
    """Make hessdiag's answers: single Lanczos vectors, no product in float64."""
    spectrum = partial(
        hessdiag.spectrum, problem.model, problem.batches, block_size=1, refine=False
    )

    def enough(part: str, samples: Mapping[str, Any]) -> bool:
        estimate = samples[part].trace()
        if estimate.ci95 is None:
            return False
        low, high = estimate.ci95
        return high - low <= 2 * truth.half_width[part]

    def traces(parts: tuple[str, ...]) -> list[Any]:
        options: dict[str, Any] = {
            "num_probes": 1,
            "max_probes": 4096,
            "traces_alone": True,
            "top_k": 0,
            "density": False,
        }
        return [spectrum(parts=parts, enough=enough, **options)]

    def lanczos(parts: tuple[str, ...], density: bool, top_k: int) -> list[Any]:
        return [
            spectrum(
                parts=parts,
                ends="top,nme=both",
                top_k=top_k,
                density=density,
                depth=max(efforts[part].density for part in parts),
                num_probes=1,
                max_passes=400,
            )
        ]

    kinds: dict[str, Callable[[tuple[str, ...]], list[Any]]] = {
        "trace": traces,
        "eigenvalues": partial(lanczos, density=False, top_k=peers.TOP),
        "density": partial(lanczos, density=True, top_k=0),
        "all": lambda parts: [*traces(parts), *lanczos(parts, density=True, top_k=peers.TOP)],
    }
    return [Contender("hessdiag", q, partial(kinds[q[0]], q[1])) for q in (*SINGLE, *JOINT)]


def theirs(problem: Problem, efforts: Mapping[str, peers.Effort]) -> list[Contender]:
    found: list[Contender] = []
    for module, library in peers.MODULES.items():
        if not find_spec(module):
            continue
        if module == "pyhessian":
            at = peers.Matvec(problem.size, problem.device, lambda v: v)
            made = {"hessian": (at, peers.of_pyhessian(problem, efforts["hessian"], at))}
        else:
            made = {
                part: (at, peers.answers(at, part, efforts[part]))
                for part, at in peers.of_operators(module, problem).items()
            }
        for part, (at, answers) in made.items():
            for kind, run in answers.items():
                found.append(Contender(library, (kind, (part,)), run, at))
    return found


def efforts_of(problem: Problem, truth: Truth) -> dict[str, peers.Effort]:
    """Find what each part needs, on our products."""
    decomposition = Decomposition(problem.model, problem.batches)
    decomposition.kept.num_examples = problem.num_examples
    efforts: dict[str, peers.Effort] = {}
    for part in PARTS:
        at = peers.Matvec(problem.size, problem.device, decomposition.operator(part).matvec)
        efforts[part] = peers.least_effort(
            at,
            truth.half_width[part],
            partial(truth.resolved, part),
            lambda nodes, weights, part=part: truth.distance(part, nodes, weights) <= DISTANCE,
        )
    return efforts


def take_turns(contenders: list[Contender], rounds: int, device: torch.device) -> None:
    """Time everyone once a round, ours first, each question after the other."""
    for turn in range(rounds):
        for question in (*SINGLE, *JOINT):
            limit = float("inf")
            for contender in [c for c in contenders if c.question == question]:
                if contender.gave_up and turn:
                    continue
                measure(contender, limit, device)
                if contender.library == "hessdiag":
                    limit = PATIENCE * median(contender.seconds)


def measure(contender: Contender, limit: float, device: torch.device) -> None:
    gc.collect()
    before = _peak(device, anew=True)
    start = time.perf_counter()
    if contender.at is not None:
        contender.at.count, contender.at.deadline = 0, start + limit
    try:
        found = contender.run()
        if contender.at is None:
            contender.products = sum(sum(report.cost.products.values()) for report in found)
    except peers.TimeUp:
        contender.gave_up = True
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    contender.seconds.append(time.perf_counter() - start)
    contender.memory = max(contender.memory, _peak(device) - before)
    if contender.at is not None:
        contender.products = contender.at.count


def _peak(device: torch.device, *, anew: bool = False) -> int:
    """Tell the largest memory so far, counted anew from here if asked; 0 where it is unknown."""
    if device.type == "cuda":
        if anew:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


def summarise(contenders: list[Contender]) -> list[dict[str, Any]]:
    """Set each of our answers beside that of the best peer for each part of it."""
    rows: list[dict[str, Any]] = []
    for own in (c for c in contenders if c.library == "hessdiag"):
        kind, parts = own.question
        kinds = ("trace", "eigenvalues", "density") if kind == "all" else (kind,)
        best = [
            min(answering, key=lambda c: (c.gave_up, median(c.seconds)))
            for question in [(k, (part,)) for k in kinds for part in parts]
            if (answering := [c for c in contenders if c.at and c.question == question])
        ]
        row: dict[str, Any] = {
            "question": kind,
            "parts": parts,
            "seconds": median(own.seconds),
            "products": own.products,
            "memory_bytes": own.memory,
            "samples": own.seconds,
        }
        if best:
            row["peer"] = " + ".join(sorted({c.library for c in best}))
            row["peer_seconds"] = sum(median(c.seconds) for c in best)
            row["peer_products"] = sum(c.products for c in best)
            row["peer_memory_bytes"] = max(c.memory for c in best)
            row["peer_gave_up"] = any(c.gave_up for c in best)
            row["ratio"] = row["peer_seconds"] / row["seconds"]
        rows.append(row)
    return rows


def tabulated(record: Mapping[str, Any]) -> Table:
    numbers = ("s", "products", "MiB", "peer's s", "products", "MiB", "ratio")
    table = Table("case", "question", *(Column(n, justify="right") for n in numbers), "peer")
    table.caption = ", ".join(f"{name} {value}" for name, value in record["machine"].items())
    for case, found in record["cases"].items():
        for row in found["rows"]:
            parts = (
                "H, G, N"
                if len(row["parts"]) > 1
                else {"hessian": "H", "gn": "G", "nme": "N"}[row["parts"][0]]
            )
            cells = [
                f"{row['seconds']:.2f}",
                str(row["products"]),
                f"{row['memory_bytes'] / 2**20:.0f}",
            ]
            if "peer" in row:
                more = ">" if row["peer_gave_up"] else ""
                cells += [f"{more}{row['peer_seconds']:.2f}", str(row["peer_products"])]
                cells += [
                    f"{row['peer_memory_bytes'] / 2**20:.0f}",
                    f"{more}{row['ratio']:.1f}",
                    row["peer"],
                ]
            table.add_row(case, f"{row['question']} of {parts}", *cells)
        table.add_section()
    return table


def main(
    cases: Annotated[str, typer.Option(help="Some of them, by commas.")] = ",".join(NETWORKS),
    data: Annotated[str, typer.Option(help="Data, as hessdiag takes it.")] = "digits",
    num_samples: Annotated[int, typer.Option(min=1, help="Examples.")] = 1024,
    num_batches: Annotated[int, typer.Option(min=1, help="Microbatches.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: torch's.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write it here.")] = None,
) -> None:
    """Time answers, here and by peers."""
    names = cases.split(",")
    if not NETWORKS.keys() >= set(names):
        raise typer.BadParameter(f"the cases are {', '.join(NETWORKS)}")
    where = devices.resolve(device)
    torch.set_num_threads(threads or torch.get_num_threads())
    options = {"data": data, "examples": num_samples, "batches": num_batches, "rounds": rounds}
    record: dict[str, Any] = {"machine": describe(where) | options, "cases": {}}
    images = load(data)
    for name in names:
        typer.echo(f"{name} …", err=True)
        problem = Problem(name, images, num_samples, num_batches, where)
        truth = Truth(problem)
        efforts = efforts_of(problem, truth)
        typer.echo(f"  {problem.size:,} parameters; {efforts}", err=True)
        contenders = [*ours(problem, truth, efforts), *theirs(problem, efforts)]
        take_turns(contenders, rounds, where)
        rows = summarise(contenders)
        needs = {part: vars(effort) for part, effort in efforts.items()}
        record["cases"][name] = {"parameters": problem.size, "efforts": needs, "rows": rows}
        if json_path is not None:
            json_path.write_text(json.dumps(record, indent=1) + "\n")
    Console(highlight=False, width=130).print(tabulated(record))


if __name__ == "__main__":
    typer.run(main)
