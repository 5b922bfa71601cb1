"""The empirical risk L(θ) = (1/N) Σ ℓ(z(θ, x_n), y_n), one microbatch at a time.

Averages weigh every example equally, however the examples are batched.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hessdiag.curvature.batches import BatchReader, Cut, mapped, repeatable
from hessdiag.curvature.heads import (
    OutputSpec,
    completed,
    is_causal,
    own_loss,
    resolve_for,
    select,
)
from hessdiag.curvature.module import Network
from hessdiag.errors import InputError
from hessdiag.linalg import processes
from hessdiag.linalg.space import FLAT
from hessdiag.linalg.vectors import Layout
from hessdiag.losses.any_loss import AnyLoss
from hessdiag.losses.loss_spec import LossSpec
from hessdiag.losses.output_loss import AtOutput, OutputLoss, Targets
from hessdiag.metadata import Circumstances

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from hessdiag.curvature.shards import Sharding


class EmpiricalRisk:
    """A module, its data and its loss, as a function of the flat parameter vector θ.

    Args:
        model: any module that maps a batch x to one tensor z; it is never changed.
        batches: any iterable of batches, or a data set of examples, that gives the same examples
            each time it is iterated; an iterator, which can be read only once, is kept in memory.
            Forms of a batch: see :mod:`hessdiag.curvature.batches`.
        loss: see :func:`hessdiag.losses.loss_spec.resolve`; None for the network's own, see
            :func:`hessdiag.curvature.heads.resolve_for`.
        output: which of the network's outputs, where it returns several: name, index or function.
        params: glob or globs over parameter names; None for all. Frozen ones are left out.
        bn: "eval" uses BatchNorm's running statistics, "batch" those of each batch as given.
        dtype: floating type to compute in; None for that of the parameters.
        device: None for that of the parameters.
        shard: mesh over which the parameters are cut, see :class:`Network`.

    Raises:
        InputError: see :class:`hessdiag.curvature.module.Network`.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        loss: LossSpec | None = None,
        *,
        output: OutputSpec | None = None,
        params: str | Sequence[str] | None = None,
        bn: str = "eval",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        shard: DeviceMesh | None = None,
    ) -> None:
        self.network = Network(model, params=params, bn=bn, dtype=dtype, device=device, shard=shard)
        self.batches = repeatable(batches)
        self.output = output
        self.loss = resolve_for(self.model, loss)
        self._is_own = loss is None
        self.cut = Cut()  # one for all copies of this
        self._reader = BatchReader(self.model, one_step_ahead=is_causal(self.model))
        if isinstance(self.loss, AnyLoss):
            one_batch = isinstance(self.batches, Sized) and len(self.batches) == 1
            self.loss.belongs_to(model.parameters(), one_batch=one_batch)
        self.layout = Layout.of(self.parameters)
        self._twin: EmpiricalRisk | None = None  # in another floating type
        self.space = FLAT if self.sharding is None else self.sharding.space(self.parameters)

    @property
    def model(self) -> nn.Module:
        """The private copy of the module."""
        return self.network.module

    @property
    def parameters(self) -> dict[str, Tensor]:
        """θ by name: leaves that require a gradient."""
        return self.network.parameters

    @property
    def sharding(self) -> Sharding | None:
        """How the parameters lie over processes; None where each holds them whole."""
        return self.network.sharding

    @property
    def num_parameters(self) -> int:
        """The dimension n of θ, of all its shards together."""
        return self.space.size(torch.empty(0, self.layout.size))

    @property
    def bn(self) -> str:
        """How BatchNorm normalises: "eval" or "batch"."""
        return self.network.bn

    @property
    def dtype(self) -> torch.dtype:
        """The type that is computed in."""
        return self.network.dtype

    @property
    def device(self) -> torch.device:
        """Where."""
        return self.network.device

    @property
    def circumstances(self) -> Circumstances:
        """What a report tells of all that."""
        params = self.network.params
        return Circumstances(
            dtype=str(self.dtype).removeprefix("torch."),
            device=str(self.device),
            bn=self.bn,
            params=(params,) if isinstance(params, str) else tuple(params) if params else None,
        )

    def displaced(self, vector: Tensor) -> EmpiricalRisk:
        """Make the same risk at θ + ``vector``, flat ``(n,)``; this one stays as it is."""
        steps = self.layout.unflatten(vector.to(self.device, self.dtype))
        moved = copy.copy(self)
        moved.network = self.network.displaced(steps)
        moved._twin = None
        return moved

    def on(self, batches: Iterable[Any] | None, loss: OutputLoss | None) -> EmpiricalRisk:
        """Make the risk of the same network on other data, with another loss, or both."""
        other = copy.copy(self)
        other.batches = self.batches if batches is None else batches
        other.loss = self.loss if loss is None else loss
        other._twin, other._is_own = None, self._is_own and loss is None
        return other

    def in_type(self, dtype: torch.dtype) -> EmpiricalRisk:
        """Give the same risk computed in another floating type; the last one is kept."""
        if self._twin is None or self._twin.dtype != dtype:
            self._twin = copy.copy(self)
            self._twin.network = self.network.in_type(dtype)
            self._twin._twin = None
        return self._twin

    def in_double(self) -> EmpiricalRisk:
        """Make the same risk in float64, of the user's module as it is now."""
        wide = copy.copy(self)
        network = self.network
        wide.network = Network(
            network.source,
            params=network.params,
            bn=network.bn,
            dtype=torch.float64,
            device=network.device,
            shard=network.shard,
        )
        wide._twin = None
        return wide

    def check_own_loss(self, x: Any, y: Tensor | Targets, value: float) -> None:
        """Refuse a network of Hugging Face that returns another loss than is taken for its own.

        Args:
            x: inputs of a microbatch.
            y: its targets.
            value: the mean loss of it.

        Raises:
            InputError: the two differ. Cost: a forward pass.
        """
        own = own_loss(self.model, self.network, x, y) if self._is_own else None
        if own is not None and not math.isclose(own, value, rel_tol=1e-3, abs_tol=1e-5):
            raise InputError(
                f"the network's own loss is not {self.loss.name}",
                got=f"{own:.6g} where it is given its labels, by {self.loss.name} {value:.6g}",
                wanted="a loss of its outputs and labels alone",
                hint="say which is meant: loss='cross-entropy', or a function of yours (--loss)",
            )

    def microbatches(self, *, shared: bool = False) -> Iterator[tuple[Any, Tensor | Targets]]:
        """Yield (x, y) on the device, floating inputs in the dtype.

        Args:
            shared: take turns with the other processes, so that each batch is one's alone.
        """
        for index, (x, y) in enumerate(self._read()):
            if shared and not processes.is_mine(index):
                continue
            for *piece, _ in self._pieces(x, y):
                yield self._placed(*piece)

    def dealt(self) -> Iterator[tuple[Any, Tensor | Targets, bool]]:
        """Yield this process's (x, y) likewise, and whether they count.

        Processes that share parameters gather them together, so all take equally many turns: who
        has no batch of its own left goes through one that does not count.
        """
        if self.sharding is None:
            for x, y in self.microbatches(shared=True):
                yield x, y, True
            return
        dealing = self.sharding.dealing
        mine = batch = None
        index = -1
        for index, batch in enumerate(self._read()):
            if index % dealing.count == dealing.index:
                mine = batch
            if (index + 1) % dealing.count == 0:
                assert mine is not None
                yield *self._placed(*mine), True
                mine = None
        if (index + 1) % dealing.count:
            assert batch is not None
            yield *self._placed(*(mine or batch)), mine is not None

    def numbered(
        self, num_examples: int | None = None
    ) -> Iterator[tuple[Any, Tensor | Targets, Sequence[int]]]:
        """Yield this process's (x, y) with the numbers of their examples in all the data.

        Args:
            num_examples: yield the first so many alone, and all of them in each process.
        """
        start = 0
        for index, (x, y) in enumerate(self._read()):
            numbers: Sequence[int] = range(start, start + len(y))
            start += len(y)
            if num_examples is not None and start > num_examples:
                if (size := num_examples - numbers[0]) <= 0:
                    return
                numbers = numbers[:size]
                x, y = mapped(x, lambda t, size=size: t[:size]), y[:size]
            if num_examples is None and not processes.is_mine(index):
                continue
            if num_examples is None:
                numbers = processes.numbers(numbers)
            for *piece, at in self._pieces(x, y):
                yield *self._placed(*piece), numbers[at]

    def anywhere(self, here: bool) -> bool:
        """Tell whether it is so in any of the processes that call the network together."""
        return (
            here
            if self.sharding is None
            else self.space.largest(torch.tensor(here * 1.0, device=self.device)) > 0
        )

    @property
    def divisible(self) -> bool:
        """Whether microbatches may be cut: their examples have nothing to do with each other."""
        whole = isinstance(self.loss, AnyLoss) and self.loss.is_of_batch
        return not (whole or self.bn == "batch" or self.sharding)

    def halve(self) -> bool:
        """Cut microbatches into halves from now on; tells whether that can be."""
        return self.divisible and self.cut.halve()

    def _pieces(self, x: Any, y: Tensor | Targets) -> Iterator[tuple[Any, Any, slice]]:
        return self.cut.pieces(x, y) if self.divisible else iter([(x, y, slice(None))])

    def _read(self) -> Iterator[tuple[Any, Tensor | Targets]]:
        empty = True
        for batch in self.batches:
            empty = False
            yield self._reader.read(batch)
        if empty:
            raise InputError("there is no data", got="no batches", wanted="at least one (x, y)")

    def _placed(self, x: Any, y: Tensor | Targets) -> tuple[Any, Tensor | Targets]:
        y = _moved(y, self.device, self.dtype)
        return completed(self.model, self._moved(x), y), y

    def outputs(self, x: Any) -> Tensor:
        """Compute z(θ, x), with a graph that leads to :attr:`parameters` if gradients are enabled.

        Raises:
            InputError: the module cannot take x, or nothing tells which of its outputs is meant.
        """
        z = self.select(self.forward(x))
        if torch.is_grad_enabled() and not z.requires_grad:
            raise InputError(
                "the network's output does not depend on the chosen parameters",
                got=", ".join(self.layout.names[:5]),
            )
        return z

    def at_outputs(self, z: Tensor, x: Any, y: Tensor | Targets) -> tuple[AtOutput, AtOutput]:
        """Evaluate the loss at z, and at z in float64 where the cotangent would feel its rounding.

        Args:
            z: outputs, without a graph.
            x: inputs.
            y: targets.
        """
        at = self.loss.at(z, y)
        if self.anywhere(_cancels(at, z)):
            with suppress(Exception):  # modules may fail in float64; then float32 has to do
                return at, self.loss.at(self.exact_outputs(x), y)
        return at, at

    def exact_outputs(self, x: Any) -> Tensor:
        """Compute z in float64, with no graph. Cost: a forward pass."""
        wide = self.in_type(torch.float64)
        with torch.no_grad():
            return wide.outputs(wide._moved(x))

    def select(self, result: Any) -> Tensor:
        """Take z out of what the module returns.

        Raises:
            InputError: nothing tells which of its outputs is meant.
        """
        return select(self.model, result, self.output)

    def forward(self, x: Any) -> Any:
        """Call the module on x, whatever it returns, with a graph if gradients are enabled.

        Raises:
            InputError: the module cannot take x.
        """
        args, kwargs = self.arguments(x)
        return self.network(*args, **kwargs)

    def arguments(self, x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Say how x is passed on to the module."""
        if isinstance(x, Mapping):
            return (), dict(x)
        return tuple(x) if isinstance(x, (tuple, list)) else (x,), {}

    def _moved(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            if x.is_floating_point() and not bool(torch.isfinite(x).all()):
                raise InputError("the inputs are not finite", got="NaN or Inf in x")
            x = x.detach().to(self.device, self.dtype if x.is_floating_point() else None)
            return x.clone()  # an in-place first layer must not reach the user's data
        if isinstance(x, Mapping):
            return {key: self._moved(value) for key, value in x.items()}
        if isinstance(x, (tuple, list)):
            return [self._moved(value) for value in x]
        return x


def _moved(y: Tensor | Targets, device: torch.device, dtype: torch.dtype) -> Tensor | Targets:
    if isinstance(y, Targets):
        return Targets(y.values.detach().to(device), y.weights.detach().to(device, dtype))
    return y.detach().to(device)


def _cancels(at: AtOutput, z: Tensor) -> bool:
    """Tell whether rounding of z, some eps |z|, may reach the fourth digit of the cotangent."""
    if z.dtype == torch.float64:
        return False
    sizes = [float(tensor.norm(dtype=torch.float64)) for tensor in (at.cotangent, at.hessian(z))]
    return 32 * sizes[0] < sizes[1]
