"""What one vector costs: H v, G v and N v here, against the Hessian and GGN products of peers.

Run it with ``uv run --group bench python benchmarks/products.py``. The unit is one gradient of the
mean loss, measured in the same run. To peers, N v is H v − G v: their best mix for all three is the
cheapest H v and the cheapest G v, the subtraction for free. Ratios are peers over ours.

* "linearised" products share one linearisation, timed by itself; a "pass" makes its own and does
  all else that a pass over the data does. All run with full float32 precision, repeatable kernels.
* Peers run without determinism checks and without passes that count examples or sum over batches,
  curvlinops on lists of tensors, and the GGN of hessian-eigenthings on weights that ask for no
  gradient, which spares it a graph. Finite differences, no exact product, are left out.
* Contenders take turns within every repeat, each starting some; medians over the repeats.
"""

from __future__ import annotations

import copy
import importlib
import json
import platform
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor, nn

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.kernels import exact_kernels
from hessdiag.curvature.linearisation import Linearisation
from hessdiag.linalg import devices
from hessdiag.metadata import ModelSpec
from hessdiag.nets.models import build
from hessdiag.parts import PARTS

# activation, batch, pixels a side
CASES = {
    "wrn16-4": ("gelu", 32, 32),
    "wrn10-2": ("gelu", 128, 32),
    "resnet18": ("relu", 32, 64),
    "groupnorm": ("silu", 64, 32),
    "transformer": ("gelu", 32, 32),
}
NEEDED = {"hessian": {"hessian"}, "gn": {"gn"}, "nme": {"hessian", "gn"}}  # of peers, for each part
NUM_VECTORS = 8
WARM_UPS = 1  # rounds, after the one that compares products
TOLERANCE = 1e-4  # between float32 products of different algorithms


@dataclass
class Contender:
    """Something to time; ``means`` makes products of the mean loss, ``(k, n)``, of its result."""

    library: str
    product: str
    run: Callable[[], Any]
    parts: tuple[str, ...] = ()
    means: Callable[[Any], Mapping[str, Tensor]] = lambda _: {}
    vectors: int = 1  # that one run multiplies
    samples: list[float] = field(default_factory=list[float])  # milliseconds for one vector


def group_norm() -> nn.Module:
    def block(width: int, out: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(width, out, 3, stride, padding=1)
        return [convolution, nn.GroupNorm(8, out), nn.SiLU()]

    widths = [(3, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
    layers = [layer for sizes in widths for layer in block(*sizes)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


class Tokens(nn.Module):
    """Patches of 4 by 4 pixels as tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Cut images ``(N, 3, h, w)`` into tokens ``(N, t, width)``."""
        return self.patches(x).flatten(2).transpose(1, 2)


class Mean(nn.Module):
    """The mean over tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """Average ``(N, t, width)``."""
        return x.mean(1)


def transformer(width: int = 96) -> nn.Module:
    layers = (
        nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True)
        for _ in range(3)
    )
    return nn.Sequential(Tokens(width), *layers, Mean(), nn.Linear(width, 10))


class Problem:
    """A network in eval mode, its batch and the vectors to multiply; all seeded."""

    def __init__(self, case: str, device: torch.device) -> None:
        activation, batch, side = CASES[case]
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(batch, 3, side, side, generator=generator)
        y = torch.randint(10, (batch,), generator=generator)
        torch.manual_seed(0)
        own = {"groupnorm": group_norm, "transformer": transformer}.get(case)
        model = own() if own else build(ModelSpec(case, activation, num_classes=10))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # running statistics are those of the last batch
        model.train()(x)
        self.model, self.x, self.y = model.eval().to(device), x.to(device), y.to(device)
        self.batches, self.loss = [(self.x, self.y)], nn.CrossEntropyLoss()
        self.decomposition = Decomposition(self.model, self.batches)
        shape = NUM_VECTORS, self.decomposition.num_parameters
        self.rows = torch.randn(shape, generator=generator).to(device)


def of_hessdiag(problem: Problem) -> list[Contender]:
    """The unit, which comes first, and what this library does."""
    model, x, y, layout = problem.model, problem.x, problem.y, problem.decomposition.layout
    linearise = partial(Linearisation, problem.decomposition.risk, x, y)
    local, v = linearise(), layout.unflatten(problem.rows[0])

    def gradient() -> tuple[Tensor, ...]:
        return torch.autograd.grad(problem.loss(model(x), y), list(model.parameters()))

    def linearised(product: str, *parts: str) -> Contender:
        def run() -> dict[str, Any]:
            gn, nme = local.products(v, gn="gn" in parts, nme="nme" in parts)
            both = [g + n for g, n in zip(gn, nme, strict=True)] if gn and nme else None
            return {"hessian": both, "gn": gn, "nme": nme}

        def means(sums: dict[str, Any]) -> dict[str, Tensor]:
            return {part: layout.flatten(sums[part])[None] / len(y) for part in parts}

        return Contender("hessdiag", f"{product}, linearised", run, parts, means)

    def one_pass(k: int) -> Contender:
        run = partial(problem.decomposition.products, problem.rows[:k])
        return Contender("hessdiag", "H, G, N in a pass", run, PARTS, vars, k)

    def hessian(sums: list[Tensor]) -> dict[str, Tensor]:
        return {"hessian": layout.flatten(sums)[None] / len(y)}

    alone = Contender("hessdiag", "H, linearised", lambda: local.hessian(v), ("hessian",), hessian)
    unit, built = ("torch", "gradient", gradient), ("hessdiag", "linearisation", linearise)
    parts = linearised("H, G, N", *PARTS), linearised("G", "gn"), linearised("N", "nme")
    return [Contender(*unit), Contender(*built), *parts, alone, one_pass(1), one_pass(NUM_VECTORS)]


def of_curvlinops(package: Any, problem: Problem) -> list[Contender]:
    arguments = problem.model, problem.loss, list(problem.model.parameters()), problem.batches
    options = {"check_deterministic": False, "num_data": len(problem.y)}
    columns = [problem.decomposition.layout.unflatten(row) for row in problem.rows]

    def multiply(product: str, kind: Any, part: str, k: int) -> Contender:
        def means(found: list[Tensor]) -> dict[str, Tensor]:
            return {part: torch.cat([tensor.reshape(-1, k) for tensor in found]).T}

        matrix = [torch.stack(tensors, -1) for tensors in zip(*columns[:k], strict=True)]
        run = partial(kind(*arguments, **options).__matmul__, matrix if k > 1 else columns[0])
        return Contender("curvlinops", product, run, (part,), means, k)

    # several vectors at once go through vmap; on CPUs its convolutions take far longer a vector
    counts = (1, NUM_VECTORS) if problem.x.is_cuda else (1,)
    hessian, ggn = package.HessianLinearOperator, package.GGNLinearOperator
    return [multiply(*a, k) for k in counts for a in (("H", hessian, "hessian"), ("G", ggn, "gn"))]


def of_hessian_eigenthings(package: Any, problem: Problem) -> list[Contender]:
    def multiply(product: str, operator: Any, part: str) -> Contender:
        run, name = partial(operator.matvec, problem.rows[0]), "hessian-eigenthings"
        return Contender(name, product, run, (part,), lambda found: {part: found[None]})

    frozen, batches = copy.deepcopy(problem.model), problem.batches
    of_model = package.supervised_loss(problem.loss)
    of_output = package.supervised_forward, package.supervised_loss_of_output(problem.loss)
    hessian = package.HessianOperator(problem.model, batches, of_model, full_dataset=False)
    ggn = package.GGNOperator(frozen, batches, *of_output, full_dataset=False)
    frozen.requires_grad_(False)  # not before: it would find no parameters
    return [multiply("H", hessian, "hessian"), multiply("G", ggn, "gn")]


PEERS = {  # module, distribution, what to time
    "curvlinops": ("curvlinops-for-pytorch", of_curvlinops),
    "hessian_eigenthings": ("hessian-eigenthings", of_hessian_eigenthings),
}


def able(contenders: list[Contender]) -> list[Contender]:
    """Leave out, and name, what cannot multiply with this network at all."""
    left: list[Contender] = []
    for contender in contenders:
        try:
            contender.run()
            left.append(contender)
        except (NotImplementedError, RuntimeError) as error:
            typer.echo(f"{contender.library}, {contender.product}: {error}", err=True)
    return left


def disagreements(problem: Problem, contenders: list[Contender]) -> dict[str, float]:
    """Compare all products with those of a pass, and its H v with double backward of the loss.

    A peer's that are off are named and left out of the contenders; ours end the benchmark.
    """
    wanted: dict[str, Tensor] = vars(problem.decomposition.products(problem.rows))
    found = {"hessdiag, H by double backward": problem.decomposition.residual()}
    for c in tuple(contenders):
        for part, rows in c.means(c.run()).items():
            exact, name = wanted[part][: c.vectors], f"{c.library}, {c.product}, k = {c.vectors}"
            off = found[f"{name}: {part}"] = float((rows.detach() - exact).norm() / exact.norm())
            if c.library != "hessdiag" and not off <= TOLERANCE:
                typer.echo(f"{name}: {part} is off by {off:.1e}, so it is not timed", err=True)
                contenders.remove(c)
    wrong = [
        f"{n}: {off:.1e}"
        for n, off in found.items()
        if n.startswith("hessdiag") and not off <= TOLERANCE
    ]
    if wrong:
        raise SystemExit("\n  ".join(["products disagree, so none is timed", *wrong]))
    return found


def measure(contenders: list[Contender], repeats: int, device: torch.device) -> None:
    """Time all contenders in turns; freeing what they computed counts."""
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    for repeat in range(-WARM_UPS, repeats):
        for turn in range(len(contenders)):
            contender = contenders[(turn + repeat) % len(contenders)]
            wait()
            start = time.perf_counter()
            contender.run()
            wait()
            elapsed = 1e3 * (time.perf_counter() - start) / contender.vectors
            contender.samples += [elapsed] if repeat >= 0 else []


def best_mix(contenders: list[Contender], parts: tuple[str, ...], k: int) -> float | None:
    """Milliseconds of the cheapest peers for all that ``parts`` need, given k vectors at once."""
    peers = [c for c in contenders if c.library not in ("torch", "hessdiag") and c.vectors <= k]
    needed = {part for wanted in parts for part in NEEDED[wanted]}
    costs = [[median(c.samples) for c in peers if part in c.parts] for part in needed]
    return sum(map(min, costs)) if costs and all(costs) else None


def summarise(contenders: list[Contender]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for c in contenders:
        mix = best_mix(contenders, c.parts, c.vectors) if c.library == "hessdiag" else None
        row = {"library": c.library, "product": c.product, "k": c.vectors, "ms": median(c.samples)}
        rows.append({**row, "ratio": mix and mix / median(c.samples), "samples_ms": c.samples})
    for k in (1, NUM_VECTORS):
        if mix := best_mix(contenders, PARTS, k):
            rows.append({"library": "best of peers", "product": "H + G", "k": k, "ms": mix})
    return [{"ratio": None, **row, "gradients": row["ms"] / rows[0]["ms"]} for row in rows]


def describe(device: torch.device) -> dict[str, str | int]:
    info = Path("/proc/cpuinfo")
    cpus = re.findall(r"model name\s*: (.*)", info.read_text() if info.exists() else "")
    cpu, threads = (*cpus, platform.processor())[0], torch.get_num_threads()
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "not used"
    peers = {name: version(name) if find_spec(at) else "missing" for at, (name, _) in PEERS.items()}
    return {"cpu": cpu, "threads": threads, "gpu": gpu, "torch": torch.__version__, **peers}


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 9,
    cases: Annotated[str, typer.Option(help="Some of them, by commas.")] = ",".join(CASES),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: torch's.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write it here.")] = None,
) -> None:
    """Time products with vectors, here and by peers."""
    where, names = devices.resolve(device), cases.split(",")
    if not CASES.keys() >= set(names):
        raise typer.BadParameter(f"the cases are {', '.join(CASES)}")
    torch.set_num_threads(threads or torch.get_num_threads())
    machine = describe(where)
    record: dict[str, Any] = {"machine": machine, "repeats": repeats, "cases": {}}
    numbers = [Column(name, justify="right") for name in ("k", "ms", "gradients", "peers / ours")]
    table = Table("case", "library", "product", *numbers)
    table.caption = ", ".join(f"{name} {value}" for name, value in machine.items())
    for case in names:
        typer.echo(f"{case} …", err=True)
        with exact_kernels():
            contenders = of_hessdiag(problem := Problem(case, where))
            for module, (_, of_peer) in PEERS.items():
                if find_spec(module):
                    contenders += able(of_peer(importlib.import_module(module), problem))
            found = disagreements(problem, contenders)
            measure(contenders, repeats, where)
        rows = summarise(contenders)
        for row in rows:
            cells = (str(row[key]) for key in ("library", "product", "k"))
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            table.add_row(case, *cells, f"{row['ms']:.1f}", f"{row['gradients']:.2f}", ratio)
        record["cases"][case] = {"disagreements": found, "rows": rows}
        table.add_section()
    Console(highlight=False, width=100).print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
