"""Networks spread over processes: products and spectra are those of one process."""

import copy
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

import hessdiag
from benchmarks.scale_plan import Size, Transformer
from hessdiag.errors import InputError
from hessdiag.linalg import processes
from hessdiag.results import Result
from tests.together import together

F64 = torch.float64
Batches = list[tuple[Tensor, Tensor]]


class Language(nn.Module):
    """A transformer of one layer with tied embeddings, a number, and a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", batch_first=True)
        self.temperature = nn.Parameter(torch.tensor(1.3))
        self.frozen = nn.Linear(8, 8)
        self.frozen.requires_grad_(False)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        z = self.frozen(self.block(self.embedding(x)))
        shift = self.frozen.weight.shape[0] * self.embedding.weight.T[0, :1]  # used outside of it
        return (self.out(z) * self.temperature + shift).mT


class Perceptron(nn.Module):
    """Of a kind that is commonly cut into columns and rows."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.down(nn.functional.gelu(self.up(self.norm(x)))))


class Logits(nn.Module):
    """A transformer whose classes come second, as the loss has them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).mT


def language() -> tuple[nn.Module, Batches]:
    torch.manual_seed(0)
    model = Language().double()
    tokens = torch.randint(0, 11, (7, 5))
    return model, [
        (t[:, :-1], t[:, 1:]) for t in tokens.split(2)
    ]  # four batches, one of them small


def perceptron() -> tuple[nn.Module, Batches]:
    torch.manual_seed(1)
    x, y = torch.randn(9, 6, dtype=F64), torch.randint(0, 3, (9,))
    return Perceptron().double(), list(zip(x.split(3), y.split(3), strict=True))


def vectors(model: nn.Module) -> Tensor:
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return torch.randn(2, size, dtype=F64, generator=torch.Generator().manual_seed(3))


def tensors(model: nn.Module, vector: Tensor) -> Iterator[tuple[str, Tensor]]:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in named.values()]
    for (name, p), part in zip(named.items(), vector.split(sizes), strict=True):
        yield name, part.view(p.shape)


def cut(tensor: Tensor, dim: int, index: int, count: int) -> Tensor:
    """This process's part, as torch cuts a tensor into chunks."""
    chunks = tensor.chunk(count, dim) if tensor.ndim else (tensor,) * count
    empty = tensor.narrow(dim, 0, 0) if tensor.ndim else tensor
    return (chunks[index] if index < len(chunks) else empty).reshape(-1)


def check_products(
    dec: hessdiag.Decomposition, whole: nn.Module, batches: Batches, mine: Any
) -> None:
    """Compare with one process: ``mine`` takes this process's part of a named tensor."""
    rows = vectors(whole)

    def part(vector: Tensor) -> Tensor:
        return torch.cat([mine(*named) for named in tensors(whole, vector)])

    found = dec.products(torch.stack([part(row) for row in rows]))
    outside, processes._group = processes._group, None  # pyright: ignore[reportPrivateUsage]
    alone = hessdiag.Decomposition(whole, batches)
    truth, gradient = alone.products(rows), alone.gradient()
    processes._group = outside  # pyright: ignore[reportPrivateUsage]
    for name in ("hessian", "gn", "nme"):
        ours, theirs = getattr(found, name), getattr(truth, name)
        for row, exact in zip(ours, theirs, strict=True):
            torch.testing.assert_close(row, part(exact), rtol=0, atol=1e-10 * float(exact.norm()))
    torch.testing.assert_close(dec.gradient().vector, part(gradient.vector), rtol=0, atol=1e-12)
    assert dec.gradient().loss == pytest.approx(gradient.loss, rel=1e-13)
    assert dec.gradient().num_examples == gradient.num_examples
    assert dec.num_parameters == alone.num_parameters
    assert dec.residual() < 1e-12


def sharded(copies: int) -> None:
    model, batches = language()
    mesh = processes.mesh(True, copies=copies)
    assert mesh is not None
    index, count = mesh.get_local_rank("shards"), mesh["shards"].size()
    dec = hessdiag.Decomposition(model, batches, shard=mesh)
    assert dec.layout.size < dec.num_parameters
    check_products(dec, model, batches, lambda _, tensor: cut(tensor, 0, index, count))


def columns_and_rows(data: int) -> None:
    count = processes.count() // data
    mesh = init_device_mesh("cpu", (data, count), mesh_dim_names=("data", "tensor"))
    model, batches = perceptron()
    whole, _ = perceptron()
    plan: dict[str, ParallelStyle] = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    parallelize_module(model, mesh["tensor"], plan)
    dims = {"up.weight": 0, "up.bias": 0, "down.weight": 1}
    index = mesh.get_local_rank("tensor")

    def mine(name: str, tensor: Tensor) -> Tensor:
        if name not in dims:
            return tensor.reshape(-1)
        return cut(tensor, dims[name], index, count)

    dec = hessdiag.Decomposition(model, batches)
    check_products(dec, whole, batches, mine)
    if data == 1:
        return
    report = hessdiag.spectrum(model, batches, **SETTINGS)
    check_report(report, *perceptron())


SETTINGS: dict[str, Any] = {
    "num_probes": 4,
    "top_k": 2,
    "depth": 4,
    "max_passes": 5,
    "per_layer": True,
}


def check_report(report: hessdiag.Report, model: nn.Module, batches: Batches) -> None:
    outside, processes._group = processes._group, None  # pyright: ignore[reportPrivateUsage]
    alone = hessdiag.spectrum(model, batches, **SETTINGS)
    processes._group = outside  # pyright: ignore[reportPrivateUsage]
    for name, part in alone.parts.items():
        found = report.parts[name]
        for ours, theirs in zip(found.top + found.bottom, part.top + part.bottom, strict=True):
            scale = abs(part.top[0].value)
            assert ours.value == pytest.approx(theirs.value, abs=1e-8 * scale), name
            assert ours.interval is not None
            assert ours.interval[0] <= theirs.value <= ours.interval[1], name
        samples, theirs = found.samples, part.samples
        assert samples is not None
        assert theirs is not None
        assert samples.quadratic_forms == pytest.approx(theirs.quadratic_forms, rel=1e-10)
        assert samples.squared_norms == pytest.approx(theirs.squared_norms, rel=1e-10)
        for layer, estimate in (part.blocks or {}).items():
            close = pytest.approx(estimate.trace.value, rel=1e-9, abs=1e-12)
            assert (found.blocks or {})[layer].trace.value == close
        assert report.gradient.rayleigh[name] == pytest.approx(alone.gradient.rayleigh[name])
    assert report.gradient.norm == pytest.approx(alone.gradient.norm, rel=1e-12)
    assert report.cost.products == alone.cost.products


def spectra(copies: int, *, host: bool = False) -> None:
    model, batches = language()
    mesh = processes.mesh(True, copies=copies)
    report = hessdiag.spectrum(model, batches, shard=mesh or False, host_basis=host, **SETTINGS)
    check_report(report, *language())


def nearby(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.05 * torch.linspace(-1, 1, parameter.numel()).view_as(parameter)
    return other


def in_brief(shard: DeviceMesh | None) -> list[Result]:
    """A verdict of each kind, and a comparison."""
    torch.manual_seed(2)
    layers = nn.Linear(3, 3, bias=False), nn.GELU(), nn.Linear(3, 2, bias=False)
    model, x, y = nn.Sequential(*layers).double(), torch.randn(3, 3), torch.randint(0, 2, (3,))
    batches = [(x[:2].double(), y[:2]), (x[2:].double(), y[2:])]
    limits = {"max": {"gn.trace": 1e-3}, "min": {"loss": 0.0}}
    options: dict[str, Any] = {"parts": ("hessian",), "density": False, "ends": "top"}
    options |= {"num_probes": 2, "top_k": 1, "tolerance": 1e-2, "shard": shard}
    return [
        hessdiag.gate(model, batches, limits, shard=shard),
        hessdiag.compare(model, nearby(model), batches, **options),
    ]


def at_length(shard: DeviceMesh | None) -> list[Result]:
    """Metrics from all sources that take shards."""
    model, batches = perceptron()
    limits = {
        "max": {
            "hessian.trace": 1e3,
            "nme.frobenius_norm": 1e-3,
            "hessian.lambda_max": 1e3,
            "gn.layers.up.weight.trace": 1e3,
            "sparsity.nonzero": 0.5,
            "sharpness.sam": 1e3,
            "sharpness.adaptive": 1e3,
        },
        "min": {"gn.lambda_max": 1e3, "loss": 0.1},
    }
    options: dict[str, Any] = {"num_probes": 4, "top_k": 2, "depth": 4, "shard": shard}
    options["metrics"] = ("perturbation.gap", "sharpness.critical")
    return [
        hessdiag.gate(model, batches, limits, shard=shard),
        hessdiag.compare(model, nearby(model), batches, **options),
        hessdiag.sparsity(model, batches, shard=shard),
    ]


def check_alike(ours: Any, theirs: Any, at: str = "") -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), at
        for key in theirs.keys() - {"cost", "truth", "notes", "relative_change", "significant"}:
            check_alike(ours[key], theirs[key], f"{at}.{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), at
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            check_alike(*pair, f"{at}.{index}")
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-7, abs=1e-9), at
    else:
        assert ours == theirs, at


def as_one(ask: Callable[[DeviceMesh | None], list[Result]], copies: int) -> None:
    found = ask(processes.mesh(True, copies=copies))
    outside, processes._group = processes._group, None  # pyright: ignore[reportPrivateUsage]
    alone = ask(None)
    processes._group = outside  # pyright: ignore[reportPrivateUsage]
    for ours, theirs in zip(found[1:], alone[1:], strict=True):
        check_alike(json.loads(ours.to_json()), json.loads(theirs.to_json()))
    gate, comparison = found[:2]
    assert isinstance(gate, hessdiag.GateReport)
    assert isinstance(alone[0], hessdiag.GateReport)
    assert isinstance(comparison, hessdiag.Comparison)
    for ours, theirs in zip(gate.findings, alone[0].findings, strict=True):
        assert (ours.limit, ours.verdict) == (theirs.limit, theirs.verdict)
        if ours.interval is None or theirs.interval is None:
            assert ours.interval == theirs.interval
        else:  # shards are sampled by products, where one process may have a shorter way
            lows, highs = zip(ours.interval, theirs.interval, strict=True)
            assert max(lows) <= min(highs) + 1e-9 * abs(min(highs))
    assert {finding.verdict for finding in gate.findings} == {"pass", "fail"}
    overlap = comparison.parts["hessian"].overlap
    assert overlap is not None
    assert 0.5 < overlap.value < 1


def elsewhere() -> None:
    mesh = processes.mesh(True)
    assert mesh is not None
    mesh._device_type = "cuda"
    model, batches = perceptron()
    with pytest.raises(InputError, match="not where the processes of the mesh compute"):
        hessdiag.Decomposition(model, batches, shard=mesh)


def two() -> None:
    elsewhere()
    sharded(1)
    columns_and_rows(1)
    spectra(1, host=True)
    as_one(at_length, 1)


def four() -> None:
    sharded(1)
    sharded(2)
    columns_and_rows(2)
    spectra(2)
    as_one(in_brief, 1)
    as_one(at_length, 2)


ALLOWANCE = 9 << 27
"""Bytes beyond those of a process that has imported torch: 45 vectors of the network below."""


def measured(*, shard: bool) -> dict[str, float]:
    """Trace and largest eigenvalue of a transformer, with 48 vectors in the basis."""
    torch.manual_seed(0)
    model = Transformer(Size(4, 384, 6, 6, 768, vocabulary=1000))
    tokens = torch.randint(0, 1000, (2, 5))
    batches = [(t[:, :-1], t[:, 1:]) for t in tokens.split(1)]
    options: dict[str, Any] = {"parts": ("hessian",), "num_probes": 2, "density": False}
    options |= {"top_k": 1, "ends": "top", "basis_size": 48, "refine": False, "max_passes": 30}
    report = hessdiag.spectrum(Logits(model), batches, shard=shard, **options)
    part = report.parts["hessian"]
    assert part.trace is not None
    size = sum(p.numel() for p in model.parameters())
    return {"trace": part.trace.value, "top": part.top[0].value, "bytes": 4 * size}


def alone(path: Path) -> None:
    path.write_text(json.dumps(measured(shard=False)))


def limited() -> None:
    """Take no more memory than ALLOWANCE from now on."""
    held = next(
        int(line.split()[1]) << 10
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmData")
    )
    resource.setrlimit(resource.RLIMIT_DATA, (held + ALLOWANCE, held + ALLOWANCE))


def refused() -> None:
    limited()
    with pytest.raises(InputError, match="too little memory"):
        measured(shard=False)


def shared(path: Path) -> None:
    limited()
    found, exact = measured(shard=True), json.loads(path.read_text())
    assert exact["bytes"] * (1 + 48) > ALLOWANCE
    assert found["trace"] == pytest.approx(exact["trace"], rel=1e-4)
    assert found["top"] == pytest.approx(exact["top"], rel=1e-4)


@pytest.mark.slow
def test_four_processes_measure_what_does_not_fit_the_memory_of_one(tmp_path: Path) -> None:
    together(alone, 1, tmp_path / "exact.json")
    together(refused, 1)
    together(shared, 4, tmp_path / "exact.json")


@pytest.mark.slow
def test_two_processes() -> None:
    together(two, 2)


@pytest.mark.slow
def test_four_processes() -> None:
    together(four, 4)


def test_two_processes_judge_and_compare_as_one() -> None:
    together(as_one, 2, in_brief, 1)
