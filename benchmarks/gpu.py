"""All there is to know about an accelerator in nine minutes, as one JSON file.

    uv run --group bench python benchmarks/gpu.py --json gpu.json

Stages, each a process of its own that is ended when its share of the time is over, so that none can
spoil another; the file is written anew after each:

* doctor, and the tests marked ``gpu``;
* step: a training step in bf16, its share of the rate at which the device multiplies bf16 matrices;
* spectrum: WRN-28-10 with 2,048 images, all parts, which an H200 is to finish in 60 s;
* products and answers, beside peers; steps of all regularisers; laws of growth.

``--device cpu`` runs all of it at reduced sizes, to see that it would.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from products import describe
from torch.utils.flop_counter import FlopCounterMode

import hessdiag
from hessdiag.linalg import devices
from hessdiag.metadata import ModelSpec
from hessdiag.nets.models import build
from hessdiag.training.objective import Objective

HERE = Path(__file__).parent
MINUTES = 9.0


@dataclass(frozen=True)
class Size:
    """What is asked of a device of this kind."""

    network: str
    images: int
    batch: int
    square: int  # of the matrices whose product gives the rate
    products: tuple[str, ...]
    answers: tuple[str, ...]
    steps: tuple[str, ...]
    scaling: tuple[str, ...]


SIZES = {
    "cuda": Size(
        *("wrn28-10", 2048, 256, 8192),
        products=("--repeats", "5"),
        answers=("--cases", "wrn16-4 gelu,transformer", "--num-batches", "4", "--rounds", "1"),
        steps=("--network", "wrn28-10", "--batch", "128"),
        scaling=("--base", "16"),
    ),
    "cpu": Size(
        *("wrn10-1", 32, 16, 512),
        products=("--repeats", "1", "--cases", "transformer"),
        answers=("--cases", "mlp", "--num-samples", "128", "--rounds", "1"),
        steps=("--network", "wrn10-1", "--batch", "8", "--repeats", "1"),
        scaling=("--base", "1", "--rounds", "1"),
    ),
}


def problem(size: Size, count: int, device: torch.device) -> tuple[torch.nn.Module, Any, Any]:
    torch.manual_seed(0)
    model = build(ModelSpec(size.network, "gelu", None, 10, (3, 32, 32))).to(device)
    return model, torch.randn(count, 3, 32, 32).to(device), (torch.arange(count) % 10).to(device)


def timed(run: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Take the median of the seconds, the first ones left out."""
    seconds: list[float] = []
    for _ in range(3 + repeats):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return median(seconds[3:])


def step(size: Size, device: torch.device) -> dict[str, Any]:
    """Count a step's operations and hold their rate against that of a matrix product."""
    model, x, y = problem(size, size.batch, device)
    objective = Objective(model.train(), "cross-entropy", precision="bf16")

    def run() -> None:
        _, loss = objective.evaluate(x, y)
        torch.autograd.grad(loss, objective.parameters)

    with FlopCounterMode(display=False) as counter:
        run()
    square = torch.randn(size.square, size.square, device=device, dtype=torch.bfloat16)
    flops, seconds = counter.get_total_flops(), timed(run, device)
    rate = 2 * size.square**3 / timed(lambda: square @ square, device)
    return {
        "network": size.network,
        "batch": size.batch,
        "seconds": seconds,
        "flops": flops,
        "matrix_flops_per_second": rate,
        "share": flops / seconds / rate,
    }


def spectrum(size: Size, device: torch.device) -> dict[str, Any]:
    """Take the default spectrum."""
    model, x, y = problem(size, size.images, device)
    batches = list(zip(x.split(size.batch), y.split(size.batch), strict=True))
    start = time.perf_counter()
    report = hessdiag.spectrum(model.eval(), batches, device=device)
    return {
        "network": size.network,
        "images": size.images,
        "seconds": time.perf_counter() - start,
        "passes": dict(report.cost.passes),
        "products": dict(report.cost.products),
        "peak_memory_bytes": report.cost.peak_memory_bytes,
        "decomposition_residual": report.checks.decomposition_residual,
    }


MEASURED = {"step": step, "spectrum": spectrum}


def stages(size: Size, device: torch.device) -> dict[str, tuple[list[str], float]]:
    """Say what each stage runs, and the minutes that it may take on an accelerator."""

    def script(name: str, *options: str) -> list[str]:
        return [str(HERE / name), "--device", str(device), *options]

    tests = ["-m", "pytest", "-q", "-m", "gpu", "--accelerator", str(device), str(HERE.parent)]
    return {
        "doctor": (["-m", "hessdiag", "doctor"], 0.5),
        "step": (script("gpu.py", "--only", "step"), 0.5),
        "spectrum": (script("gpu.py", "--only", "spectrum"), 2.0),
        "tests": (tests, 2.0),
        "products": (script("products.py", *size.products), 1.0),
        "steps": (script("steps.py", *size.steps), 0.5),
        "scaling": (script("scaling.py", *size.scaling), 1.0),
        "answers": (script("answers.py", *size.answers), 1.5),
    }


def run(command: list[str], seconds: float) -> dict[str, Any]:
    """Run one stage, and keep its file, or else the end of what it said."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stage.json"
        is_script = command[0].endswith(".py")
        arguments = [sys.executable, *command, *(["--json", str(path)] if is_script else [])]
        try:
            done = subprocess.run(
                arguments, capture_output=True, text=True, timeout=seconds, check=False
            )
            outcome, said = f"exit code {done.returncode}", done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            outcome, said = (
                f"stopped after {seconds:.0f} s",
                (error.stdout or b"").decode(errors="replace"),
            )
        found: dict[str, Any] = {"outcome": outcome, "seconds": time.perf_counter() - start}
        if path.exists():
            return found | {"found": json.loads(path.read_text())}
    return found | {"said": said[-4000:]}


def main(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    minutes: Annotated[float, typer.Option(help="For all of it.")] = MINUTES,
    only: Annotated[str | None, typer.Option(help="One stage, in this process.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write it here.")] = None,
) -> None:
    """Run all stages."""
    where = devices.resolve(device)
    size = SIZES[where.type]
    record: dict[str, Any] = {"machine": describe(where), "stages": {}}
    if only in MEASURED:
        record = MEASURED[only](size, where)
    elif only is not None:
        raise typer.BadParameter(f"it is one of {', '.join(MEASURED)}")
    end = time.monotonic() + 60 * minutes
    for name, (command, share) in ({} if only else stages(size, where)).items():
        left = end - time.monotonic()
        if left < 1:
            record["stages"][name] = {"outcome": "no time was left"}
            continue
        stage = run(command, min(left, 60 * share * minutes / MINUTES))
        record["stages"][name] = stage
        typer.echo(f"{name}: {stage['outcome']}, {stage['seconds']:.0f} s", err=True)
        if json_path is not None:
            json_path.write_text(json.dumps(record, indent=1) + "\n")
    text = json.dumps(record, indent=1)
    if json_path is None:
        typer.echo(text)
    else:
        json_path.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
