"""What a training step of every regulariser costs, in steps of plain SGD measured in the same run.

Run it with ``uv run python benchmarks/steps.py``. The unit is forward, backward and update as
anyone would write them with torch. Ideals count products (``methods.METHODS[…]().cost``),
targets are what is to be reached on a WRN-16-4.

* Every method runs with its default options in training mode, on one seeded batch, and its step
  ends with the same update: Nesterov's momentum and weight decay at a learning rate of 0, so that
  all work on the same weights.
* Methods take turns within every repeat, each starting some; medians over the repeats. A method
  that fails has its reason in place of numbers.
"""

from __future__ import annotations

import json
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Column, Table
from torch.nn import functional as F

from hessdiag.linalg import devices
from hessdiag.metadata import ModelSpec
from hessdiag.nets.models import build
from hessdiag.training import methods
from hessdiag.training.objective import Objective
from hessdiag.training.task import Streams, Task

UNIT = "plain SGD"
TARGETS = {
    "weight-noise": 1.15,
    "sam": 2.15,
    "nso": 2.2,
    "grad-penalty": 4.2,
    "gn-trace": 4.8,
    "hessian-trace": 9.0,
}
WARM_UPS = 1  # rounds
SIDE, NUM_CLASSES = 32, 10


@dataclass
class Contender:
    """A step to time, or why it cannot be taken."""

    name: str
    run: Callable[[], None]
    samples: list[float] = field(default_factory=list[float])  # milliseconds
    error: str | None = None


class Problem:
    """A network in training mode, its optimiser and a batch; all seeded."""

    def __init__(self, network: str, activation: str, batch: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(batch, 3, SIDE, SIDE, generator=generator)
        y = torch.randint(NUM_CLASSES, (batch,), generator=generator)
        spec = ModelSpec(network, activation, None, NUM_CLASSES, (3, SIDE, SIDE))
        self.device, self.x, self.y = device, x.to(device), y.to(device)
        self.model = build(spec).train().to(device)
        self.objective = Objective(self.model, "cross-entropy")
        self.optimizer = torch.optim.SGD(
            self.objective.parameters, lr=0.0, momentum=0.9, nesterov=True, weight_decay=5e-4
        )

    def plain_sgd(self) -> None:
        """Take a step with nothing of this library."""
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.model(self.x), self.y).backward()
        self.optimizer.step()

    def step(self, task: Task, method: Callable[[Task], Any]) -> None:
        """Take a step along the method's gradient."""
        gradient = method(task).gradient
        for parameter, descent in zip(task.parameters, gradient, strict=True):
            parameter.grad = descent
        self.optimizer.step()

    def contender(self, name: str) -> Contender:
        """Make a regulariser ready, with its default options."""
        perturbation, labels = (torch.Generator(self.device).manual_seed(i) for i in (1, 2))
        method = methods.find(name)()
        task = Task(self.objective, self.x, self.y, method, Streams(perturbation, labels))
        return Contender(name, partial(self.step, task, method.step))


def measure(contenders: list[Contender], repeats: int, device: torch.device) -> None:
    """Time all contenders in turns; freeing what they computed counts."""
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    for repeat in range(-WARM_UPS, repeats):
        for turn in range(len(contenders)):
            contender = contenders[(turn + repeat) % len(contenders)]
            if contender.error is not None:
                continue
            wait()
            start = time.perf_counter()
            try:
                contender.run()
            except RuntimeError as error:
                contender.error = str(error).splitlines()[0]
                continue
            wait()
            elapsed = 1e3 * (time.perf_counter() - start)
            contender.samples += [elapsed] if repeat >= 0 else []


def summarise(contenders: list[Contender]) -> list[dict[str, Any]]:
    """One row a contender; ratios are medians over the unit's, rounds of which lie side by side."""
    unit = median(contenders[0].samples)
    rows: list[dict[str, Any]] = []
    for c in contenders:
        ms = median(c.samples) if c.error is None else None
        row = {"method": c.name, "ms": ms, "ratio": ms and ms / unit, "error": c.error}
        ideal = 1.0 if c.name == UNIT else methods.find(c.name)().cost
        row |= {"ideal": ideal, "target": TARGETS.get(c.name), "samples_ms": c.samples}
        rows.append(row)
    return rows


def describe(device: torch.device) -> dict[str, str | int]:
    info = Path("/proc/cpuinfo")
    cpus = re.findall(r"model name\s*: (.*)", info.read_text() if info.exists() else "")
    cpu, threads = (*cpus, platform.processor())[0], torch.get_num_threads()
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "not used"
    return {"cpu": cpu, "threads": threads, "gpu": gpu, "torch": torch.__version__}


def tabulate(rows: list[dict[str, Any]], caption: str) -> Table:
    numbers = [Column(name, justify="right") for name in ("ms", "ratio", "ideal", "target")]
    table = Table("method", *numbers, "", caption=caption)
    for row in rows:
        cells = [f"{row['ms']:.0f}", f"{row['ratio']:.2f}"] if row["ms"] else ["", ""]
        target = "" if row["target"] is None else f"{row['target']:.2f}"
        missed = bool(row["ms"] and row["target"] and row["ratio"] > row["target"])
        remark = row["error"] or ("missed" if missed else "")
        table.add_row(row["method"], *cells, f"{row['ideal']:.2f}", target, remark)
    return table


def main(
    network: Annotated[str, typer.Option(help="wrn16-4, resnet18, mlp-64-64, …")] = "wrn16-4",
    activation: Annotated[str, typer.Option(help="Of the network.")] = "gelu",
    batch: Annotated[int, typer.Option(min=2, help="Examples a step.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
    names: Annotated[str, typer.Option("--methods", help="Some of them, by commas.")] = ",".join(
        methods.METHODS
    ),
    threads: Annotated[int | None, typer.Option(min=1, help="Default: torch's.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write it here.")] = None,
) -> None:
    """Time a step of every regulariser."""
    if not methods.METHODS.keys() >= set(names.split(",")):
        raise typer.BadParameter(f"the methods are {', '.join(methods.METHODS)}")
    torch.set_num_threads(threads or torch.get_num_threads())
    problem = Problem(network, activation, batch, devices.resolve(device))
    contenders = [Contender(UNIT, problem.plain_sgd), *map(problem.contender, names.split(","))]
    measure(contenders, repeats, problem.device)
    rows, machine = summarise(contenders), describe(problem.device)
    what = {"network": network, "activation": activation, "batch": batch, "repeats": repeats}
    facts = ", ".join(f"{name} {value}" for name, value in {**what, **machine}.items())
    Console(highlight=False, width=100).print(tabulate(rows, facts))
    if json_path is not None:
        record = {"machine": machine, **what, "rows": rows}
        json_path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
