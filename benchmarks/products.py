"""What one vector costs: H v, G v and N v here, against the Hessian and GGN products of peers.

Run it with ``uv run --group bench python benchmarks/products.py``. The unit is one gradient of the
mean loss, forward and backward, measured in the same run. Peers have no N v, it is their H v − G v,
so the best mix of peers is the cheapest H v plus the cheapest G v; the subtraction is not charged.
Ratios are peers over ours, above 1 where ours is cheaper.

* "linearised" products share one linearisation, timed by itself; a "pass" makes its own and does
  all else that a pass over the data does.
* Everything runs under ``exact_kernels``: full float32 precision, repeatable kernels.
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
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from hessdiag.curvature.decomposition import PARTS, Decomposition
from hessdiag.curvature.linearisation import Linearisation
from hessdiag.curvature.risk import exact_kernels
from hessdiag.metadata import ModelSpec
from hessdiag.nets.models import build

NUM_VECTORS = 8
WARM_UPS = 2  # rounds, after the one that compares products
TOLERANCE = 1e-4  # between float32 products of different algorithms
PEERS = {"curvlinops": "curvlinops-for-pytorch", "hessian_eigenthings": "hessian-eigenthings"}
NEEDED = {"hessian": ("hessian",), "gn": ("gn",), "nme": ("hessian", "gn")}  # of peers


class Device(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True)
class Case:
    """A network, and a batch of random images of so many pixels a side."""

    spec: ModelSpec
    batch: int
    size: int


CASES = {
    "wrn16-4": Case(ModelSpec("wrn16-4", "gelu", num_classes=10), 32, 32),
    "wrn10-2": Case(ModelSpec("wrn10-2", "gelu", num_classes=10), 128, 32),
    "resnet18": Case(ModelSpec("resnet18", "relu", num_classes=10), 32, 64),
}


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Attributes:
        library: the module that it comes from.
        product: what it computes, in words.
        run: computes it once.
        parts: which of "hessian", "gn" and "nme" that gives.
        means: what ``run`` returned, as means over the batch, ``(vectors, n)`` for each part.
        vectors: the number of vectors that one run multiplies.
    """

    library: str
    product: str
    run: Callable[[], Any]
    parts: tuple[str, ...] = ()
    means: Callable[[Any], Mapping[str, Tensor]] = lambda _: {}
    vectors: int = 1


@dataclass(frozen=True)
class Row:
    """A measurement; times are for one vector."""

    library: str
    product: str
    vectors: int
    median_ms: float
    gradients: float
    peers_over_ours: float | None = None
    samples_ms: tuple[float, ...] = ()


class Problem:
    """The network in eval mode, its batch and the vectors to multiply; all seeded."""

    def __init__(self, case: Case, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(case.batch, 3, case.size, case.size, generator=generator)
        y = torch.randint(10, (case.batch,), generator=generator)
        model = build(case.spec)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # running statistics are those of the last batch
        with torch.no_grad():
            model.train()(x)
        self.model, self.x, self.y = model.eval().to(device), x.to(device), y.to(device)
        self.criterion = nn.CrossEntropyLoss()
        self.decomposition = Decomposition(self.model, [(self.x, self.y)])
        self.layout = self.decomposition.layout
        size = (NUM_VECTORS, self.layout.size)
        self.vectors = torch.randn(size, generator=generator).to(device)


def ours(problem: Problem) -> list[Contender]:
    """The gradient, which must come first, and what the library does."""
    x, y, model, layout = problem.x, problem.y, problem.model, problem.layout
    parameters = list(model.parameters())
    decomposition, v = problem.decomposition, layout.unflatten(problem.vectors[0])
    local = Linearisation(decomposition.risk, x, y)

    def all_three() -> dict[str, Any]:
        gn, nme = local.products(v, gn=True, nme=True)
        assert gn is not None
        assert nme is not None
        return {"hessian": [g + n for g, n in zip(gn, nme, strict=True)], "gn": gn, "nme": nme}

    def means(sums: dict[str, Any]) -> dict[str, Tensor]:
        return {part: layout.flatten(tensors)[None] / len(y) for part, tensors in sums.items()}

    def gn_alone() -> dict[str, Any]:
        return {"gn": local.products(v, gn=True, nme=False)[0]}

    def nme_alone() -> dict[str, Any]:
        return {"nme": local.products(v, gn=False, nme=True)[1]}

    def one_pass(k: int) -> Contender:
        rows = problem.vectors[:k]
        run = lambda: decomposition.products(rows)  # noqa: E731
        return Contender("hessdiag", "H, G, N: pass", run, PARTS, vars, k)

    loss = problem.criterion
    return [
        Contender("torch", "gradient", lambda: torch.autograd.grad(loss(model(x), y), parameters)),
        Contender("hessdiag", "linearisation", lambda: Linearisation(decomposition.risk, x, y)),
        Contender("hessdiag", "H, G, N: linearised", all_three, PARTS, means),
        Contender("hessdiag", "G: linearised", gn_alone, ("gn",), means),
        Contender("hessdiag", "N: linearised", nme_alone, ("nme",), means),
        one_pass(1),
        one_pass(NUM_VECTORS),
    ]


def of_curvlinops(package: Any, problem: Problem) -> list[Contender]:
    model, options = problem.model, {"check_deterministic": False, "num_data": len(problem.y)}
    arguments = (problem.criterion, list(model.parameters()), [(problem.x, problem.y)])
    hessian = package.HessianLinearOperator(model, *arguments, **options)
    ggn = package.GGNLinearOperator(model, *arguments, **options)
    columns = [problem.layout.unflatten(vector) for vector in problem.vectors]

    def multiply(product: str, operator: Any, part: str, k: int) -> Contender:
        def means(found: list[Tensor]) -> dict[str, Tensor]:
            return {part: torch.cat([tensor.reshape(-1, k) for tensor in found]).T}

        matrix = [torch.stack(tensors, -1) for tensors in zip(*columns[:k], strict=True)]
        operand = matrix if k > 1 else columns[0]
        return Contender("curvlinops", product, lambda: operator @ operand, (part,), means, k)

    # several vectors at once go through vmap; on CPUs its convolutions take far longer a vector
    counts = (1, NUM_VECTORS) if problem.x.is_cuda else (1,)
    kinds = (("H", hessian, "hessian"), ("G", ggn, "gn"))
    return [multiply(*kind, k) for k in counts for kind in kinds]


def of_hessian_eigenthings(package: Any, problem: Problem) -> list[Contender]:
    model, frozen, loss = problem.model, copy.deepcopy(problem.model), problem.criterion
    data, v = [(problem.x, problem.y)], problem.vectors[0]
    hessian = package.HessianOperator(
        model, data, package.supervised_loss(loss), full_dataset=False
    )
    functions = package.supervised_forward, package.supervised_loss_of_output(loss)
    ggn = package.GGNOperator(frozen, data, *functions, full_dataset=False)
    frozen.requires_grad_(False)  # not before: it would find no parameters

    def multiply(product: str, operator: Any, part: str) -> Contender:
        def means(found: Tensor) -> dict[str, Tensor]:
            return {part: found.detach()[None]}

        run = lambda: operator.matvec(v)  # noqa: E731
        return Contender("hessian_eigenthings", product, run, (part,), means)

    return [multiply("H", hessian, "hessian"), multiply("G", ggn, "gn")]


def disagreements(problem: Problem, contenders: list[Contender]) -> dict[str, float]:
    """Compare all products with those of a pass, and its H v with double backward of the loss.

    Raises:
        SystemExit: some differ by more than the tolerance.
    """
    wanted: dict[str, Tensor] = vars(problem.decomposition.products(problem.vectors))
    found = {"hessdiag, double backward": problem.decomposition.residual()}
    for contender in contenders:
        for part, rows in contender.means(contender.run()).items():
            exact = wanted[part][: contender.vectors]
            name = f"{contender.library}, {contender.product}, k = {contender.vectors}: {part}"
            found[name] = float((rows - exact).norm() / exact.norm())
    wrong = [f"{name}: {value:.1e}" for name, value in found.items() if not value <= TOLERANCE]
    if wrong:
        raise SystemExit("products disagree, so none is timed\n  " + "\n  ".join(wrong))
    return found


def measure(contenders: list[Contender], repeats: int, device: torch.device) -> list[list[float]]:
    """Time all contenders in turns, in milliseconds for one vector; freeing results counts."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    samples: list[list[float]] = [[] for _ in contenders]
    for repeat in range(-WARM_UPS, repeats):
        for turn in range(len(contenders)):
            index = (turn + repeat) % len(contenders)
            synchronize()
            start = time.perf_counter()
            contenders[index].run()
            synchronize()
            elapsed = time.perf_counter() - start
            if repeat >= 0:
                samples[index].append(1e3 * elapsed / contenders[index].vectors)
    return samples


def summarise(contenders: list[Contender], samples: list[list[float]]) -> list[Row]:
    medians = [statistics.median(times) for times in samples]
    unit = medians[0]

    def of_peers(parts: tuple[str, ...], k: int) -> float | None:
        """Cost of these parts by the cheapest peer for each product, given k vectors at once."""
        total = 0.0
        for product in sorted({product for part in parts for product in NEEDED[part]}):
            costs = [
                median
                for peer, median in zip(contenders, medians, strict=True)
                if peer.library in PEERS and product in peer.parts and peer.vectors <= k
            ]
            if not costs:
                return None
            total += min(costs)
        return total or None

    rows: list[Row] = []
    for contender, median, times in zip(contenders, medians, samples, strict=True):
        peers = of_peers(contender.parts, contender.vectors)
        ratio = peers / median if peers and contender.library == "hessdiag" else None
        k = contender.vectors
        row = Row(
            contender.library, contender.product, k, median, median / unit, ratio, tuple(times)
        )
        rows.append(row)
    for k in sorted({peer.vectors for peer in contenders if peer.library in PEERS}):
        if mix := of_peers(PARTS, k):
            rows.append(Row("best mix of peers", "H + G", k, mix, mix / unit))
    return rows


def describe(device: torch.device, peers: Mapping[str, Any]) -> dict[str, str | int]:
    """The machine and the versions."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    versions = {name: version(PEERS[name]) if name in peers else "missing" for name in PEERS}
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **versions,
    }
