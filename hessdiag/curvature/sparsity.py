"""How much of a network's second derivatives of activations is there: φ'' at every pre-activation.

N reaches the weights through φ'', so where φ'' is zero the network has no within-layer NME.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hessdiag.curvature.blocks import block_norms
from hessdiag.curvature.calls import Call, watching
from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.losses import LossSpec
from hessdiag.curvature.risk import EmpiricalRisk, exact_kernels
from hessdiag.errors import InputError
from hessdiag.linalg.trace import Estimate
from hessdiag.nets.profiles import DEFAULT_THRESHOLD, check_threshold, max_abs

_NUM_BINS = 48
_SPREAD = 5.0  # the histogram reaches so many standard deviations from the mean


@dataclass(frozen=True)
class Histogram:
    """Counts of pre-activations.

    Attributes:
        edges: ``(b + 1,)`` ascending.
        counts: ``(b,)``.
        below: how many lie below the first edge.
        above: how many lie above the last.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int
    above: int


@dataclass(frozen=True)
class Shares:
    """What part of a set of pre-activations has a second derivative.

    Attributes:
        num_preactivations: how many there are.
        nonzero: share with φ'' ≠ 0, exactly, in the dtype.
        above: share with |φ''| > τ · max |φ''|.
        mean_abs: mean |φ''|.
    """

    num_preactivations: int
    nonzero: float
    above: float
    mean_abs: float


@dataclass(frozen=True)
class CallSparsity:
    """One activation call of the network.

    Attributes:
        name: module path and, from the second call on, number.
        function: what is called, with its β.
        closed_form: whether φ'' is a closed form; else it is differentiated numerically in float64.
        shares: of its pre-activations.
        mean: of the pre-activations.
        std: their standard deviation.
        peak: max |φ''|: over the real line for a closed form, else over the pre-activations.
        histogram: of the pre-activations.
        curve: φ'' at the middle of each bin; None where φ'' is numerical.
        layers: parameters first used since the activation call before this one.
    """

    name: str
    function: str
    closed_form: bool
    shares: Shares
    mean: float
    std: float
    peak: float
    histogram: Histogram
    curve: tuple[float, ...] | None
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Sparsity:
    """The activation calls of a network on its data.

    Attributes:
        total: shares over all pre-activations of the network.
        calls: in the order they run.
        block_norms: ‖N_ll‖_F of each parameter's block of N, or None where not asked for.
        threshold: τ.
        num_samples: examples in the data.
        num_parameters: dimension n.
        dtype: floating type computed in.
        device: where.
        bn: BatchNorm mode.
        seconds: wall-clock time.
        notes: what the numbers do not see.
    """

    total: Shares
    calls: tuple[CallSparsity, ...]
    block_norms: dict[str, Estimate] | None
    threshold: float
    num_samples: int
    num_parameters: int
    dtype: str
    device: str
    bn: str
    seconds: float
    notes: tuple[str, ...] = ()


def sparsity(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss: LossSpec = "cross-entropy",
    threshold: float = DEFAULT_THRESHOLD,
    with_nme: bool = False,
    num_probes: int = 8,
    params: str | Sequence[str] | None = None,
    bn: str = "eval",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    on_progress: Callable[[float, float], None] | None = None,
) -> Sparsity:
    """Measure φ'' at the pre-activations of every activation call.

    Cost: two forward passes over the data; ``with_nme`` adds ``num_probes`` products with N for
    each parameter.

    Args:
        model: any ``nn.Module`` from a batch to one tensor; nothing of it is changed.
        batches: any iterable of (x, y), the same examples each time.
        loss: as for :func:`hessdiag.spectrum`; matters to ``with_nme`` alone.
        threshold: τ, in [0, 1).
        with_nme: whether to estimate ‖N_ll‖_F of each parameter's block of N.
        num_probes: probes for each block.
        params: glob or globs over parameter names; None for all trainable ones.
        bn: "eval" or "batch".
        dtype: torch.float32 or torch.float64; None for that of the parameters.
        device: None for that of the parameters.
        seed: of the probes.
        on_progress: called with (work done, work in all), in forward passes over a microbatch.

    Raises:
        InputError: bad settings, data or network; a network without activations.

    Source: Dauphin, Agarwala and Mobahi (2024), section 4 and their figure on sparsity.
    """
    began = time.perf_counter()
    check_threshold(threshold)
    if num_probes < 1:
        raise InputError("num_probes is too small", got=num_probes, wanted="at least 1")
    decomposition = Decomposition(
        model, batches, loss, params=params, bn=bn, dtype=dtype, device=device
    )
    risk = decomposition.risk
    ranges: dict[str, _Range] = {}
    num_samples = _watch(risk, lambda call: _open(ranges, call).see(call), with_graph=True)
    if not ranges:
        raise InputError(
            "the network has no activations",
            got=type(risk.model).__name__,
            wanted="a network that calls a non-linear elementwise function",
        )
    tallies = {name: _Tally(found, threshold) for name, found in ranges.items()}

    def count(call: Call) -> None:
        if call.name in tallies:  # else it does not depend on the parameters
            tallies[call.name].add(call)

    _watch(risk, count, with_graph=False)
    for tally in tallies.values():
        tally.check()
    norms = None
    if with_nme:
        norms = block_norms(
            decomposition, num_probes=num_probes, seed=seed, on_progress=on_progress
        )
    return Sparsity(
        total=_total([tally.shares() for tally in tallies.values()]),
        calls=tuple(tally.result() for tally in tallies.values()),
        block_norms=norms,
        threshold=threshold,
        num_samples=num_samples,
        num_parameters=decomposition.num_parameters,
        dtype=str(risk.dtype).removeprefix("torch."),
        device=str(risk.device),
        bn=bn,
        seconds=time.perf_counter() - began,
        notes=tuple(_unseen(risk.model)),
    )


def _watch(risk: EmpiricalRisk, on_call: Callable[[Call], None], *, with_graph: bool) -> int:
    """Run the network over the data once, watched; returns the number of examples.

    With a graph, calls that do not depend on the parameters are left out.
    """
    num_samples = 0
    with exact_kernels(), torch.set_grad_enabled(with_graph):
        for x, y in risk.microbatches():
            with watching(risk.model, risk.parameters, on_call):
                risk.forward(x)
            num_samples += len(y)
    return num_samples


def _open(ranges: dict[str, _Range], call: Call) -> _Range:
    if call.name not in ranges:
        ranges[call.name] = _Range(call)
    return ranges[call.name]


class _Range:
    """First pass: moments and range of one call's pre-activations, and max |φ''|."""

    def __init__(self, call: Call) -> None:
        self.first = call
        self.count, self.mean, self.squares = 0, 0.0, 0.0  # squares: Σ (x − mean)²
        self.low, self.high = math.inf, -math.inf
        self.peak = 0.0 if call.curve is None else max_abs(call.curve)

    def see(self, call: Call) -> None:
        x = call.x.double()
        count, mean = x.numel(), float(x.mean())
        if not math.isfinite(mean):
            raise InputError(f"the pre-activations of {call.name} are not finite", got="NaN or Inf")
        total = self.count + count
        gap = mean - self.mean
        self.squares += float((x - mean).square().sum()) + gap**2 * self.count * count / total
        self.mean += gap * count / total
        self.count = total
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        if call.curve is None:
            self.peak = max(self.peak, float(call.second(x).abs().max()))

    @property
    def std(self) -> float:
        return math.sqrt(self.squares / self.count)

    def edges(self) -> NDArray[np.float64]:
        low = max(self.low, self.mean - _SPREAD * self.std)
        high = min(self.high, self.mean + _SPREAD * self.std)
        if not low < high:  # all pre-activations are equal
            low, high = low - 0.5, high + 0.5
        return np.linspace(low, high, _NUM_BINS + 1)


class _Tally:
    """Second pass: counts of one call's pre-activations."""

    def __init__(self, found: _Range, threshold: float) -> None:
        self.found = found
        self.level = threshold * found.peak
        self.count = self.nonzero = self.above = 0
        self.sum_abs = 0.0
        self.edges = found.edges()
        self.counts = np.zeros(_NUM_BINS, dtype=np.int64)
        self.outside = [0, 0]

    def add(self, call: Call) -> None:
        second = call.second(call.x).abs()
        self.count += second.numel()
        self.nonzero += int(torch.count_nonzero(second))
        self.above += int((second > self.level).sum())
        self.sum_abs += float(second.sum(dtype=torch.float64))
        x = call.x.flatten().double()
        edges = torch.from_numpy(self.edges).to(x.device)
        bins = torch.bucketize(x, edges[1:-1])
        inside = (x >= edges[0]) & (x <= edges[-1])
        self.counts += torch.bincount(bins[inside], minlength=_NUM_BINS).cpu().numpy()
        self.outside[0] += int((x < edges[0]).sum())
        self.outside[1] += int((x > edges[-1]).sum())

    def check(self) -> None:
        if self.count != self.found.count:
            raise InputError(
                "the network ran differently on the same data",
                got=f"{self.count} pre-activations of {self.found.first.name}",
                wanted=f"{self.found.count}, as in the first pass",
                hint="turn off sampling and functional dropout",
            )

    def shares(self) -> Shares:
        return Shares(
            num_preactivations=self.count,
            nonzero=self.nonzero / self.count,
            above=self.above / self.count,
            mean_abs=self.sum_abs / self.count,
        )

    def result(self) -> CallSparsity:
        call = self.found.first
        curve = None
        if call.curve is not None:
            middles = torch.from_numpy((self.edges[:-1] + self.edges[1:]) / 2)
            curve = tuple(call.second(middles).tolist())
        return CallSparsity(
            name=call.name,
            function=call.function,
            closed_form=call.curve is not None,
            shares=self.shares(),
            mean=self.found.mean,
            std=self.found.std,
            peak=self.found.peak,
            histogram=Histogram(
                tuple(self.edges.tolist()), tuple(self.counts.tolist()), *self.outside
            ),
            curve=curve,
            layers=call.layers,
        )


def _total(parts: Sequence[Shares]) -> Shares:
    count = sum(part.num_preactivations for part in parts)

    def mean(values: Iterable[float]) -> float:
        weighted = (
            value * part.num_preactivations for value, part in zip(values, parts, strict=True)
        )
        return math.fsum(weighted) / count

    return Shares(
        num_preactivations=count,
        nonzero=mean(part.nonzero for part in parts),
        above=mean(part.above for part in parts),
        mean_abs=mean(part.mean_abs for part in parts),
    )


def _unseen(model: nn.Module) -> list[str]:
    return [
        f"the activations within the fused recurrent layer {name} are not seen"
        for name, module in model.named_modules()
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase))
    ]
