"""How the time of a spectrum grows with examples, parameters and probes, and what it starts with.

    uv run python benchmarks/scaling.py --json scaling.json

Three sizes of each, all else fixed, every one timed once a round, in turns. Between the smallest
and the largest size time goes as size to the power of ``exponent``: 1 is linear, less is a cost
that does not grow. Start-up: a new interpreter that imports torch, and one that also multiplies
the first vector.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from products import describe
from rich.console import Console
from rich.table import Column, Table

import hessdiag
from hessdiag.linalg import devices
from hessdiag.metadata import ModelSpec
from hessdiag.nets.models import build

SIDE, CLASSES = 16, 10
FIRST_PRODUCT = """
import torch
from hessdiag import Decomposition
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.GELU(), torch.nn.Linear(32, 10))
decomposition = Decomposition(model, [(torch.randn(8, 64), torch.arange(8))])
decomposition.products(torch.ones(decomposition.num_parameters))
"""
STARTS = {"import torch": "import torch", "first product": FIRST_PRODUCT}


def spectrum(samples: int, widen: int, probes: int, device: torch.device) -> tuple[int, float]:
    """Take traces and norms of all parts by products; tell parameters and seconds."""
    torch.manual_seed(0)
    model = build(ModelSpec(f"wrn10-{widen}", "gelu", None, CLASSES, (3, SIDE, SIDE)))
    x, y = torch.randn(samples, 3, SIDE, SIDE), torch.arange(samples) % CLASSES
    batches = list(zip(x.split(64), y.split(64), strict=True))
    start = time.perf_counter()
    hessdiag.spectrum(model, batches, device=device, num_probes=probes, top_k=0, density=False)
    seconds = time.perf_counter() - start
    return sum(parameter.numel() for parameter in model.parameters()), seconds


def start_up(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def law(sizes: list[int], seconds: list[float]) -> float:
    """Fit the exponent between the ends."""
    return math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])


def main(
    base: Annotated[int, typer.Option(min=1, help="Smallest number of examples / 64.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write it here.")] = None,
) -> None:
    """Measure the laws."""
    where, samples = devices.resolve(device), 64 * base
    grid = {
        "examples": [(samples * factor, 1, 8) for factor in (1, 2, 4)],
        "parameters": [(samples, widen, 8) for widen in (1, 2, 4)],
        "probes": [(samples, 1, probes) for probes in (8, 16, 32)],
    }
    runs: dict[tuple[str, int], Callable[[], Any]] = {
        (name, place): partial(spectrum, *size, where)
        for name, sizes in grid.items()
        for place, size in enumerate(sizes)
    }
    spectrum(64, 1, 1, where)  # kernels are chosen and loaded
    timed = [{key: run() for key, run in runs.items()} for _ in range(rounds)]
    starts = [{name: start_up(code) for name, code in STARTS.items()} for _ in range(rounds)]
    record: dict[str, Any] = {"machine": describe(where), "rounds": rounds, "laws": {}}
    table = Table("law", "sizes", *(Column(n, justify="right") for n in ("s", "exponent")))
    for name, sizes in grid.items():
        counts = [
            timed[0][name, place][0]
            if name == "parameters"
            else size[0 if name == "examples" else 2]
            for place, size in enumerate(sizes)
        ]
        seconds = [median(turn[name, place][1] for turn in timed) for place in range(len(sizes))]
        exponent = law(counts, seconds)
        record["laws"][name] = {"sizes": counts, "seconds": seconds, "exponent": exponent}
        cells = " ".join(f"{count:,}" for count in counts), " ".join(f"{s:.2f}" for s in seconds)
        table.add_row(name, *cells, f"{exponent:.2f}")
    record["start_up"] = {name: median(turn[name] for turn in starts) for name in STARTS}
    torch_alone, product = record["start_up"].values()
    table.add_row("start-up", " ".join(STARTS), f"{torch_alone:.2f} {product:.2f}", "")
    table.caption = f"the first product takes {product / torch_alone:.2f} times import torch"
    Console(highlight=False, width=100).print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
