"""Memory of sharded transformers that one machine cannot hold: ``python benchmarks/scale_plan.py``.

Networks on the meta device, cut over a process group that moves nothing: shapes and storages are
those of a run, numbers there are none. Prints the table of docs/scale.md, and checks that the
shares of all processes add up to the network.
"""

from __future__ import annotations

import argparse
import contextlib
import weakref
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hessdiag.curvature.kernels import exact_kernels
from hessdiag.curvature.shards import Sharding
from hessdiag.linalg import processes

GIB = 1 << 30
TRACES = 17  # vectors for a trace: the gradient, four probes, three products of each
LANCZOS = 62  # of Lanczos for one part and one eigenvalue, with 48 in its basis
BASIS = 48


@dataclass(frozen=True)
class Size:
    """A transformer of the Llama kind.

    Attributes:
        layers: blocks.
        width: of the residual stream.
        heads: of attention.
        shared: heads of keys and values.
        inner: width of the gated perceptron.
        vocabulary: tokens.
    """

    layers: int
    width: int
    heads: int
    shared: int
    inner: int
    vocabulary: int = 32000


SIZES = {
    "1.3 B": Size(24, 2048, 16, 16, 5461),
    "7 B": Size(32, 4096, 32, 32, 11008),
    "70 B": Size(80, 8192, 64, 8, 28672),
}


class Layer(nn.Module):
    """Attention and a gated perceptron, each normalised before it and added to the stream."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size, own = size, size.width // size.heads
        self.before, self.between = nn.RMSNorm(size.width), nn.RMSNorm(size.width)
        self.query = nn.Linear(size.width, size.width, bias=False)
        self.key = nn.Linear(size.width, own * size.shared, bias=False)
        self.value = nn.Linear(size.width, own * size.shared, bias=False)
        self.out = nn.Linear(size.width, size.width, bias=False)
        self.gate = nn.Linear(size.width, size.inner, bias=False)
        self.up = nn.Linear(size.width, size.inner, bias=False)
        self.down = nn.Linear(size.inner, size.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, tokens, width) to the same."""
        size, h = self.size, self.before(x)
        q = self.query(h).unflatten(-1, (size.heads, -1)).transpose(1, 2)
        k, v = (
            of(h)
            .unflatten(-1, (size.shared, -1))
            .transpose(1, 2)
            .repeat_interleave(size.heads // size.shared, 1)
            for of in (self.key, self.value)
        )
        x = x + self.out(
            F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        )
        h = self.between(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Transformer(nn.Module):
    """Tokens to logits."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens = nn.Embedding(size.vocabulary, size.width)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.width)
        self.head = nn.Linear(size.width, size.vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (batch, tokens) to (batch, tokens, vocabulary)."""
        x = self.tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class Storages(TorchDispatchMode):
    """Count the bytes of storages made within the block that live, their most, and those moved."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.moved = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Note the storages of what an operation gives."""
        result: Any = func(*args, **(kwargs or {}))
        tensors = [item for item in tree_leaves(result) if isinstance(item, Tensor)]
        for tensor in tensors:
            self._note(tensor.untyped_storage())
        if "all_gather" in func.name():
            self.moved += sum(tensor.nbytes for tensor in tensors)
        elif "reduce_scatter" in func.name():
            self.moved += args[0].nbytes
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


@dataclass(frozen=True)
class Plan:
    """Bytes of one process.

    Attributes:
        parameters: in the whole network.
        own: of its shard of the parameters, and so of a vector.
        graph: of a microbatch's linearisation and one product with G and N, at the most.
        logits: of one microbatch.
        largest: of the largest parameter, whole.
        moved: in gatherings and sums of a product.
    """

    parameters: int
    own: int
    graph: int
    logits: int
    largest: int
    moved: int


@contextlib.contextmanager
def as_process(rank: int, count: int) -> Generator[None]:
    """Be one of many processes, the others of which are not there."""
    dist.init_process_group("fake", rank=rank, world_size=count, store=FakeStore())
    try:
        with processes.joined():
            yield
    finally:
        dist.destroy_process_group()


def shares(model: nn.Module, count: int) -> Iterator[int]:
    """Count the parameters that each process holds."""
    for rank in range(count):
        with as_process(rank, count):
            sharding = Sharding.of(model, processes.mesh(shard=True))
            assert sharding is not None
            cut = sharding.follow((p, p) for p in model.parameters())
            yield sum(cut.spreads[id(p)][1].piece().here for p in model.parameters())


def planned(size: Size, count: int, tokens: int) -> Plan:
    """Take the first process's part in a product with G and N of one sequence."""
    with torch.device("meta"):
        model = Transformer(size)
        x = torch.zeros(1, tokens, dtype=torch.long)
    held = sum(shares(model, count))
    num_parameters = sum(p.numel() for p in model.parameters())
    assert held == num_parameters, (held, num_parameters)
    largest = max(p.numel() for p in model.parameters())
    with as_process(0, count), exact_kernels():
        sharding = Sharding.of(model, processes.mesh(shard=True))
        assert sharding is not None
        pairs: list[tuple[Tensor, Tensor]] = []
        for module in model.modules():
            for name, whole in [*module.named_parameters(recurse=False)]:
                shard = nn.Parameter(sharding.local(whole).detach().clone())
                pairs.append((whole, shard))
                setattr(module, name, shard)
        sharding = sharding.follow(pairs)
        theta = [shard for _, shard in pairs]
        own = sum(p.numel() for p in theta)
        with Storages() as storages, sharding.gathered.again():
            with sharding.gathering():
                z = model(x)
            c = torch.zeros_like(z).requires_grad_()
            s = torch.autograd.grad(z, theta, c, create_graph=True)
            v = [torch.zeros_like(p) for p in theta]
            storages.moved = 0
            *n, along = torch.autograd.grad(s, [*theta, c], v, retain_graph=True)
            g = torch.autograd.grad(z, theta, along, retain_graph=True)
        vectors = 4 * own * 4  # s, v, N v, G v: counted with the vectors
        del n, g
    logits = z.numel() * z.itemsize
    graph = storages.most - vectors
    return Plan(num_parameters, 4 * own, graph, logits, 4 * largest, storages.moved)


def main() -> None:
    """Print a row for each network and number of processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=128, help="length of the one sequence")
    parser.add_argument("--networks", nargs="*", default=[*SIZES])
    parser.add_argument("--processes", nargs="*", type=int, default=[8, 64, 512])
    given = parser.parse_args()
    heads = [
        *("network", "processes", "θ", "traces: 17 vectors", "Lanczos: 62", "its basis: 48"),
        *(f"graph of {given.tokens} tokens", "its logits", "one parameter whole"),
        *("in all, traces", "in all, Lanczos", "moved"),
    ]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name in given.networks:
        for count in given.processes:
            plan = planned(SIZES[name], count, given.tokens)
            columns = (
                *(plan.own, TRACES * plan.own, LANCZOS * plan.own, BASIS * plan.own),
                *(plan.graph, plan.logits, plan.largest),
                *(plan.own * (1 + vectors) + plan.graph for vectors in (TRACES, LANCZOS)),
                plan.moved,
            )
            cells = " | ".join(f"{column / GIB:.2f}" for column in columns)
            print(f"| {name} ({plan.parameters / 1e9:.2f}) | {count} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
