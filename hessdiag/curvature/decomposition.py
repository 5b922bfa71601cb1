"""The decomposition H = G + N of an empirical risk's Hessian: products, operators, gradient."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from hessdiag.curvature.as_called import fitting_examples
from hessdiag.curvature.direct import residual
from hessdiag.curvature.heads import OutputSpec
from hessdiag.curvature.kept import Kept
from hessdiag.curvature.kernels import exact_kernels, undisturbed
from hessdiag.curvature.memory import within_memory
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.curvature.sums import Sums
from hessdiag.curvature.truth import Truth, check_few
from hessdiag.errors import InputError, NotFinite, unknown
from hessdiag.linalg import processes
from hessdiag.linalg.driver import Answer, Request
from hessdiag.linalg.operator import Operator
from hessdiag.linalg.space import FlatSpace, normal
from hessdiag.linalg.vectors import Layout, all_finite
from hessdiag.losses.loss_spec import LossSpec
from hessdiag.losses.output_loss import OutputLoss, Targets
from hessdiag.parts import PARTS
from hessdiag.seeds import stream

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_LINEAR = (
    "the loss is linear in the network's outputs, so that G = 0 and H = N: let the network return "
    "its logits, not its loss or log-probabilities, or name the loss nll"
)


@dataclass(frozen=True)
class Products:
    """Products with the parts, each shaped like the vectors given; None where not asked for."""

    hessian: Tensor | None
    gn: Tensor | None
    nme: Tensor | None


@dataclass(frozen=True)
class Gradient:
    """The risk and its gradient.

    Attributes:
        loss: L(θ).
        accuracy: share of right predictions; None where the targets are not classes.
        vector: ∇L, ``(n,)``.
        num_examples: examples in the data.
    """

    loss: float
    accuracy: float | None
    vector: Tensor
    num_examples: int


class Decomposition:
    """H = G + N for a network, its data and its loss.

    ``G = (1/N) Σ J_nᵀ B_n J_n`` is the Gauss-Newton part, ``N = (1/N) Σ_n Σ_k c_nk ∇²z_nk`` the
    Nonlinear Modeling Error; ``c`` and ``B`` are the loss's gradient and Hessian at the output.
    N has its own product and is never computed as H − G.

    Args:
        model: any ``nn.Module`` from a batch to one tensor; nothing of it is changed.
        batches: any iterable of (x, y); how examples are batched does not change the result.
        loss: a name, a torch loss or any loss(z, y): :func:`hessdiag.losses.loss_spec.resolve`;
            None for the network's own: cross-entropy, but for heads of Hugging Face that say else.
        output: which of the network's outputs, where it returns several: a name, an index or a
            function of what it returns.
        params: glob or globs over parameter names; None for all trainable ones.
        bn: "eval", or "batch" to normalise by the statistics of each batch as given.
        dtype: torch.float32 or torch.float64; None for that of the parameters.
        device: None for that of the parameters.
        shard: mesh over whose last dimension each parameter is cut, its examples dealt over all of
            it; None for a network that every process holds whole, or whose parameters are DTensors.
            Vectors then hold this process's part, in the order of :attr:`layout`.
        unchecked: go on where the network's derivatives are found wrong, see :attr:`truth`.
        on_microbatch: called after each microbatch of a pass, for progress.

    Attributes:
        notes: what qualifies the numbers; known after the first pass.
        truth: the derivatives compared with those of the module as it is called, on a few examples,
            after the first pass over the data; None before it.
        kept: linearisations that passes have in common; none unless it has room.

    Raises:
        InputError: see :class:`EmpiricalRisk`; later also for data that change between passes,
            labels out of range, non-finite losses, gradients or products, and derivatives that
            are wrong beyond doubt.

    Source: Dauphin, Agarwala and Mobahi (2024), eqs. 2-4; Martens (2020), sec. 8.1.
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
        unchecked: bool = False,
        on_microbatch: Callable[[], None] | None = None,
    ) -> None:
        self.risk = EmpiricalRisk(
            model,
            batches,
            loss,
            output=output,
            params=params,
            bn=bn,
            dtype=dtype,
            device=device,
            shard=shard,
        )
        self.on_microbatch = on_microbatch
        self.unchecked = unchecked
        self.truth: Truth | None = None
        self.kept = Kept()
        self._seen: Truth | None = None  # in this process, and not judged yet
        self._gradient: Gradient | None = None
        self._twin: Decomposition | None = None  # in the other floating type
        self.notes: tuple[str, ...] = ()

    @property
    def layout(self) -> Layout:
        """Where each parameter lies in a flat vector."""
        return self.risk.layout

    @property
    def num_parameters(self) -> int:
        """The dimension n."""
        return self.risk.num_parameters

    @property
    def space(self) -> FlatSpace:
        """The space that its vectors lie in."""
        return self.risk.space

    def check_whole(self, what: str) -> None:
        """Raise InputError of a network that is spread over processes."""
        if self.risk.sharding is not None:
            raise InputError(
                f"{what} takes a network that every process holds whole",
                got="parameters cut over processes",
                hint="spectra, gates, comparisons and products take them",
            )

    def displaced(self, vector: Tensor) -> Decomposition:
        """Make the decomposition at θ + ``vector``, flat ``(n,)``; this one stays as it is."""
        return self._of(self.risk.displaced(vector), "they are those away from θ")

    def on(self, batches: Iterable[Any] | None = None, loss: OutputLoss | None = None) -> Self:
        """Make the decomposition of the same network on other data, or with another loss."""
        reason = "they are those of other data or another loss"
        return self._of(self.risk.on(batches, loss), reason)

    def in_type(self, dtype: torch.dtype) -> Decomposition:
        """Give the same decomposition computed in another floating type."""
        if dtype == self.risk.dtype:
            return self
        if self._twin is None:
            self._twin = self._of(self.risk.in_type(dtype), "they are those of a twin")
        return self._twin

    def _of(self, risk: EmpiricalRisk, unchecked: str) -> Self:
        other = copy.copy(self)
        other.risk, other.kept = risk, Kept()
        other._gradient = other._twin = None
        other.truth = self.truth or Truth(reason=unchecked)
        return other

    def products(self, v: Tensor, parts: Iterable[str] = PARTS) -> Products:
        """Compute H v, G v and N v.

        Cost: one pass over the data; per microbatch one gradient plus about three a vector.

        Args:
            v: ``(n,)`` or rows ``(k, n)``.
            parts: those wanted.

        Raises:
            InputError: v does not fit, or an unknown part.
        """
        wanted = set(parts)
        for part in wanted.difference(PARTS):
            raise unknown("part", part, PARTS)
        if v.ndim not in (1, 2) or v.shape[-1] != self.layout.size:
            raise InputError(
                "the vector does not fit the parameters",
                got=f"shape {tuple(v.shape)}",
                wanted=f"({self.layout.size},) or (k, {self.layout.size})",
            )
        rows = v.to(self.risk.device, self.risk.dtype).reshape(-1, self.layout.size)
        (answer,) = self.answer([Request(rows, wanted)])
        found = {part: answer[part].reshape(v.shape) if part in wanted else None for part in PARTS}
        return Products(**found)

    def gradient(self) -> Gradient:
        """Compute L and ∇L; kept from whichever pass over the data came first."""
        if self._gradient is None:
            self.answer([])
        assert self._gradient is not None
        return self._gradient

    def operator(self, part: str) -> PartOperator:
        """Wrap one part as a linear operator."""
        if part not in PARTS:
            raise unknown("part", part, PARTS)
        return PartOperator(self, part)

    @undisturbed()
    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer all requests in one pass: each microbatch is linearised once.

        Vectors in another floating type are answered in that type, by a pass of its own. Several
        processes share the microbatches and sum what they found in one exchange.

        Raises:
            InputError: the data changed since the last pass; a product is not finite.
        """
        types = {request.vectors.dtype for request in requests}
        if types - {self.risk.dtype}:
            given: dict[int, Answer] = {}
            self.kept.clear()  # what is computed in float64 takes its place
            for dtype in sorted(types, key=str, reverse=True):
                own = [i for i, request in enumerate(requests) if request.vectors.dtype == dtype]
                answers = self.in_type(dtype).answer([requests[i] for i in own])
                given |= dict(zip(own, answers, strict=True))
            return [given[i] for i in range(len(requests))]
        local = functools.partial(self._local_sums, requests)
        tally, gradient, sums, is_linear = within_memory(local, self.risk, self.kept)
        if self._gradient is None:
            self.risk.network.check_weights()
        self._add_up(tally, [gradient, *(rows for s in sums for rows in s.rows.values())])
        total, weight, num_examples, num_counted, num_correct = tally.tolist()
        if weight == 0:
            raise InputError("no target counts", got="every target ignored, or weights of zero")
        if self._gradient is None:
            accuracy = num_correct / num_counted if num_counted else None
            self.notes = (*self.risk.network.notes, *((_LINEAR,) if is_linear else ()))
            mean = gradient.div_(weight)
            self._gradient = Gradient(total / weight, accuracy, mean, int(num_examples))
        self.check_unchanged(total / weight, int(num_examples))
        answers = [request.finish(weight) for request in sums]
        for answer in answers:
            for part, rows in answer.items():
                if part != "hessian" or len(answer) < len(PARTS):  # else finite as its parts are
                    self._check_finite(part, rows)
        if self.truth is None:
            self.truth = processes.agreed(self._seen)
            if self.truth is not None and not self.unchecked:
                self.truth.judge()
        return answers

    def _local_sums(self, requests: Sequence[Request]) -> tuple[Tensor, Tensor, list[Sums], bool]:
        """Sum over this process's examples: the tally, the gradient and the products."""
        sums = [Sums(request) for request in requests]
        is_linear = True
        tally = torch.zeros(5, dtype=torch.float64, device=self.risk.device)
        with exact_kernels(), self.risk.network.gathering():
            batches = iter(self.risk.dealt())
            first = [*itertools.islice(batches, 1)]
            if first:
                self.inspect(*first[0][:2])  # while no sums are kept
            size = 0 if self._gradient else self.layout.size
            gradient = torch.zeros(size, dtype=self.risk.dtype, device=self.risk.device)
            for index, (x, y, counts) in enumerate(itertools.chain(first, batches)):
                local = self.kept.linearise(index, self.risk, x, y, counts)
                at = local.at_output
                tally += counts * tally.new_tensor(local.tally)
                is_linear &= at.is_linear
                if self._gradient is None:
                    local.check_loss()
                    if index == 0 and at.weight:
                        self.risk.check_own_loss(x, y, local.total / at.weight)
                    local.check_twice_differentiable()
                    for total, tensor in zip(
                        self.layout.unflatten(gradient), local.gradient, strict=True
                    ):
                        total += tensor
                for request in sums:
                    request.add(local, self.layout)
                del local
                if self.on_microbatch is not None:
                    self.on_microbatch()
        return tally, gradient, sums, is_linear

    def _add_up(self, tally: Tensor, vectors: Sequence[Tensor]) -> None:
        """Sum over the processes what each found on its examples, in place."""
        if (sharding := self.risk.sharding) is None:
            for tensor in (tally, *vectors):
                processes.add_up(tensor)
            return
        processes.add_up(tally, sharding.dealing.groups)
        for tensor in vectors:
            processes.add_up(tensor, sharding.replicas)

    @undisturbed()
    def inspect(self, x: Any, y: Tensor | Targets) -> None:
        """Compare the derivatives on (x, y) now, if not yet done; the first pass judges them."""
        if not (self.truth or self._seen) and processes.is_first():
            self._seen = check_few(self.risk, x, y)

    @undisturbed()
    def residual(self, seed: int = 0) -> float:
        """Compute ‖H v − (G v + N v)‖/‖H v‖ for a random v on a few examples.

        Here H v comes from differentiating the loss itself twice, with none of the linearisation's
        code. Cost: about eight gradients of these examples.
        """
        self.kept.clear()
        whole = next(iter(self.risk.microbatches()))
        generator = torch.Generator().manual_seed(stream(seed, "residual"))
        v = torch.empty(1, self.layout.size, dtype=self.risk.dtype, device=self.risk.device)
        self.space.fill(v, normal, generator)
        with exact_kernels(), self.risk.network.gathering():
            few = fitting_examples(self.risk, *whole, at_most=32)
            return residual(self.risk, *few, v[0])

    def check_unchanged(self, loss: float, num_examples: int) -> None:
        """Refuse data that are not those of the first pass.

        Raises:
            InputError: loss or number of examples differ.
        """
        first = self.gradient()
        tolerance = 1e-8 if self.risk.dtype == torch.float64 else 1e-4
        same = math.isclose(loss, first.loss, rel_tol=tolerance, abs_tol=tolerance * 1e-2)
        if num_examples != first.num_examples or not same:
            raise InputError(
                "the data or the network changed between two passes",
                got=f"loss {loss:.8g} over {num_examples} examples",
                wanted=f"loss {first.loss:.8g} over {first.num_examples}, as in the first pass",
                hint="turn off augmentation, sampling and functional dropout",
            )

    def _check_finite(self, part: str, rows: Tensor) -> None:
        if all_finite(rows):
            return
        for name, at in self.layout.slices.items():
            if not all_finite(rows[:, at]):
                raise NotFinite(
                    f"the {part} product is not finite in {name}",
                    got="NaN or Inf",
                    hint="try --dtype float64, or smaller vectors",
                )


class PartOperator(Operator):
    """One part of a decomposition as a linear operator; each call is one pass over the data."""

    def __init__(self, decomposition: Decomposition, part: str) -> None:
        self.decomposition, self.part = decomposition, part
        self.size = decomposition.layout.size
        self.dtype, self.device = decomposition.risk.dtype, decomposition.risk.device

    def matmat(self, rows: Tensor) -> Tensor:
        """Apply the part to rows ``(k, n)``."""
        return getattr(self.decomposition.products(rows, (self.part,)), self.part)
