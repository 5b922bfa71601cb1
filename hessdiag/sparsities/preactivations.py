"""Statistics of one activation call: its pre-activations and φ'' at them, in two passes."""

from __future__ import annotations

import dataclasses
import math

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from hessdiag.errors import InputError, NotFinite
from hessdiag.nets.profiles import max_abs
from hessdiag.sparsities.calls import Call
from hessdiag.sparsities.sparsity_result import CallSparsity, Histogram, Shares

_NUM_BINS = 48
_SPREAD = 5.0  # the histogram reaches so many standard deviations from the mean


class Range:
    """First pass: moments and range of one call's pre-activations, and max |φ''|."""

    def __init__(self, call: Call) -> None:
        self.first = dataclasses.replace(call, x=torch.empty(0))  # a microbatch's may be large
        self.count, self.mean, self.squares = 0, 0.0, 0.0  # squares: Σ (x − mean)²
        self.low, self.high = math.inf, -math.inf
        self.peak = 0.0 if call.curve is None else max_abs(call.curve)

    def see(self, call: Call) -> None:
        """Take in the pre-activations of one microbatch."""
        x = call.x.double()
        count, mean = x.numel(), float(x.mean())
        if not math.isfinite(mean):
            raise NotFinite(f"the pre-activations of {call.name} are not finite", got="NaN or Inf")
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
        """Standard deviation."""
        return math.sqrt(self.squares / self.count)

    def edges(self) -> NDArray[np.float64]:
        """Choose the histogram's bins."""
        low = max(self.low, self.mean - _SPREAD * self.std)
        high = min(self.high, self.mean + _SPREAD * self.std)
        if not low < high:  # all pre-activations are equal
            low, high = low - 0.5, high + 0.5
        return np.linspace(low, high, _NUM_BINS + 1)


class Tally:
    """Second pass: counts of one call's pre-activations."""

    def __init__(self, found: Range, threshold: float) -> None:
        self.found = found
        self.level = threshold * found.peak
        self.count = self.nonzero = self.above = 0
        self.sum_abs = self.sum_x = 0.0
        self.edges = found.edges()
        self.counts = np.zeros(_NUM_BINS, dtype=np.int64)
        self.outside = [0, 0]

    def add(self, call: Call) -> None:
        """Count the pre-activations of one microbatch."""
        second = call.second(call.x).to(call.x.dtype).abs()  # zero where it is in this dtype
        self.count += second.numel()
        self.nonzero += int(torch.count_nonzero(second))
        self.above += int((second > self.level).sum())
        self.sum_abs += float(second.sum(dtype=torch.float64))
        x = call.x.flatten().double()
        self.sum_x += float(x.sum())
        edges = torch.from_numpy(self.edges).to(x.device)
        bins = torch.bucketize(x, edges[1:-1])
        inside = (x >= edges[0]) & (x <= edges[-1])
        self.counts += torch.bincount(bins[inside], minlength=_NUM_BINS).cpu().numpy()
        self.outside[0] += int((x < edges[0]).sum())
        self.outside[1] += int((x > edges[-1]).sum())

    def check(self) -> None:
        """Refuse to go on if the two passes saw different pre-activations."""
        found = self.found
        gap = abs(self.sum_x / max(self.count, 1) - found.mean)
        if self.count != found.count or gap > 1e-6 * (found.std + abs(found.mean)):
            raise InputError(
                "the network ran differently on the same data",
                got=f"{self.count} pre-activations of {found.first.name}, mean moved by {gap:.2g}",
                wanted=f"the {found.count} of the first pass",
                hint="turn off sampling and functional dropout",
            )

    def shares(self) -> Shares:
        """Give the shares so far."""
        return Shares(
            num_preactivations=self.count,
            nonzero=self.nonzero / self.count,
            above=self.above / self.count,
            mean_abs=self.sum_abs / self.count,
        )

    def result(self) -> CallSparsity:
        """Give all that is known of the call."""
        call = self.found.first
        curve = None
        if call.curve is not None:
            middles = torch.from_numpy((self.edges[:-1] + self.edges[1:]) / 2)
            curve = tuple(call.second(middles).tolist())
        return CallSparsity(
            name=call.name,
            function=call.function,
            closed_form=call.curve is not None,
            **msgspec.structs.asdict(self.shares()),
            mean=self.found.mean,
            std=self.found.std,
            peak=self.found.peak,
            histogram=Histogram(
                tuple(self.edges.tolist()), tuple(self.counts.tolist()), *self.outside
            ),
            curve=curve,
            layers=call.layers,
        )
