"""One linearisation, many products.

For one microbatch, the graph of ``s(θ, c) = J(θ)ᵀ c`` is built once, with the cotangent c as an
independent variable. Differentiating ``⟨s(θ, c), v⟩`` in (θ, c) gives ``N v`` and ``J v`` in one
backward pass; another pass through the graph of z gives ``G v = Jᵀ B (J v)``; ``H v`` is their sum.
Where H v alone is wanted, c is a function of z, of derivative B, and one backward pass gives it.
"""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from hessdiag.curvature.double_backward import DoubleBackward
from hessdiag.curvature.kernels import has_differentiable_backward
from hessdiag.curvature.risk import EmpiricalRisk
from hessdiag.errors import InputError, NotFinite
from hessdiag.linalg.vectors import all_finite
from hessdiag.losses.output_loss import Targets


class Linearisation:
    """The network and its loss, linearised at θ for one microbatch; sums, not means.

    Cost: about one gradient to build and three times a gradient's memory; then, in gradients,
    about 3 for both products, 2 for H or N alone, 4/3 for G alone.

    Args:
        risk: the network and its loss.
        x: inputs.
        y: targets.
        counts: whether they do; the products of those that do not are zero, at the same cost.

    Attributes:
        outputs: z.
        at_output: the loss, its cotangent and its output Hessian.
        total: the loss, summed.
        gradient: ``Jᵀ c``, one tensor per parameter.

    Raises:
        NotFinite: the loss or a gradient.
        InputError: an operation has no second derivative.
    """

    def __init__(
        self, risk: EmpiricalRisk, x: Any, y: Tensor | Targets, *, counts: bool = True
    ) -> None:
        self._scale = 1.0 if counts else 0.0
        self._follows = False  # c, the outputs
        self._num_examples = len(y)
        self._parameters = list(risk.parameters.values())
        self._mode = DoubleBackward()
        self._ties = risk.sharding is None
        with self._mode if self._ties else nullcontext():
            self.outputs = risk.outputs(x)
        self._check_loss = partial(risk.loss.check, self.outputs.detach(), y)
        self.at_output, exact = risk.at_outputs(self.outputs.detach(), x, y)
        self.total = float(exact.total.detach())
        if not math.isfinite(self.total):
            raise NotFinite(
                "the loss is not finite",
                got=f"{self.total} over a microbatch of {len(y)}",
                hint="the outputs of the network overflow, or its inputs do",
            )
        cotangent = self._scale * exact.cotangent.detach()
        self._c = cotangent.to(self.outputs.dtype).requires_grad_()
        c = _Tied.apply(self.outputs, self._c, self) if self._ties else self._c
        with _naming_the_operation():
            s = torch.autograd.grad(
                self.outputs, self._parameters, c, create_graph=True, materialize_grads=True
            )
        self.gradient = [tensor.detach() for tensor in s]
        for name, tensor in zip(risk.layout.names, self.gradient, strict=True):
            if not all_finite(tensor):
                raise NotFinite(f"the gradient of {name} is not finite", got="NaN or Inf")
        # unused parameters have a zero gradient that no graph leads to
        self._used = [i for i, tensor in enumerate(s) if tensor.requires_grad]
        self._s = [s[i] for i in self._used]

    @cached_property
    def tally(self) -> tuple[float, ...]:
        """Give the loss, its weight, the examples, the targets predicted and those rightly."""
        at = self.at_output
        return self.total, at.weight, self._num_examples, at.num_counted, at.num_correct or 0

    def check_loss(self) -> None:
        """Refuse a loss whose mean depends on how the examples are batched.

        Raises:
            InputError: it does, or it depends on the weights beside the outputs.
        """
        self._check_loss()

    def check_twice_differentiable(self) -> None:
        """Refuse operations whose backward pass cannot be differentiated.

        Autograd leaves the terms behind such an operation out without a word, because no path
        leads from it to the parameters.

        Raises:
            InputError: there is one.
        """
        if not has_differentiable_backward(self._s):
            raise _no_second_derivative("a torch.autograd.Function marked once_differentiable")

    def products(
        self, v: list[Tensor], *, gn: bool, nme: bool
    ) -> tuple[list[Tensor] | None, list[Tensor] | None]:
        """Compute ``(G v, N v)``, each only if asked for.

        Args:
            v: one tensor per parameter, of its shape and dtype.
            gn: whether G v is wanted.
            nme: whether N v is wanted.
        """
        found = dict(self.one_by_one(v, gn=gn, nme=nme))
        return found.get("gn"), found.get("nme")

    def one_by_one(
        self, v: list[Tensor], *, gn: bool, nme: bool
    ) -> Iterator[tuple[str, list[Tensor]]]:
        """Compute N v, then G v, each with its name; the former may be let go before the latter."""
        inputs = [*(self._parameters if nme else ()), *((self._c,) if gn else ())]
        derivatives = self._along(v, inputs, bends=nme)
        curved = self._curved(derivatives.pop()) if gn else None  # J v, as large as the outputs
        if nme:
            yield "nme", derivatives
        del derivatives
        if curved is not None:
            found = torch.autograd.grad(
                self.outputs, self._parameters, curved, retain_graph=True, materialize_grads=True
            )
            yield "gn", list(found)

    @property
    def kept_bytes(self) -> int:
        """Memory of what products keep beside what autograd saves."""
        return self._mode.num_bytes

    def hessian(self, v: list[Tensor]) -> list[Tensor]:
        """Compute H v, at the cost of N v."""
        if self._ties:
            return self._along(v, self._parameters, follows=True)
        products = self.products(v, gn=True, nme=True)
        return [g + n for g, n in zip(*map(list, filter(None, products)), strict=True)]

    def _along(
        self, v: list[Tensor], inputs: list[Tensor], *, bends: bool = True, follows: bool = False
    ) -> list[Tensor]:
        """Differentiate ``⟨s, v⟩``, c following the outputs or not."""
        self._mode.bends, self._follows = bends, follows
        with _naming_the_operation():
            directions = [v[i] for i in self._used]
            return list(
                torch.autograd.grad(
                    self._s, inputs, directions, retain_graph=True, materialize_grads=True
                )
            )

    def _curved(self, along: Tensor) -> Tensor:
        return self._scale * self.at_output.hessian(along)


class _Tied(torch.autograd.Function):
    """The cotangent c, also as a function of the outputs, of derivative B."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, c: Tensor, at: Linearisation) -> Tensor:
        del z
        ctx.at = weakref.ref(at)  # which keeps this graph
        return c.view_as(c)

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        at = ctx.at()
        if not at._follows:
            return None, along, None
        with torch.enable_grad():  # some losses differentiate themselves
            return at._curved(along.detach()).detach(), along, None


@contextmanager
def _naming_the_operation() -> Generator[None]:
    """Turn autograd's error about a missing second derivative into one that names the operation."""
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"derivative for ['\"]?([\w:]+)['\"]? is not implemented", str(error))
        if "inplace operation" in str(error):
            raise InputError(
                "the network changes in place what its own backward pass needs",
                got=str(error).split(". Hint")[0],
                hint="training it would fail likewise: work out of place where it is named",
            ) from error
        if not found:
            raise
        raise _no_second_derivative(found[1]) from error


def _no_second_derivative(operation: str) -> InputError:
    return InputError(
        "an operation of the network has no second derivative",
        got=operation,
        hint="replace it, or leave the parameters below it out with --params",
    )
