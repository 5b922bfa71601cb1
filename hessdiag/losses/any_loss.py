"""Losses that the user has written, differentiated by autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hessdiag.errors import InputError
from hessdiag.losses.output_loss import AtOutput, OutputLoss, Targets, by_example

_REMEDY = "return one value per example, (N,), or a pair (sum, weight)"


class AnyLoss(OutputLoss):
    """Any twice differentiable loss(z, y).

    It returns the mean over the examples of a batch, or one value per example, or (sum, weight).
    A mean is put to the test: it has to be that of its parts' means, and never a sum.

    Args:
        function: from outputs ``(N, …)`` and targets to any of these.
    """

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        self._weights: set[int] = set()  # ids of the network's
        self._one_batch = False
        self._form: torch.Size | None = None  # of an example's outputs

    def belongs_to(self, parameters: Iterable[Tensor], *, one_batch: bool) -> None:
        """Learn what the loss must not depend on, and whether all data are one batch."""
        self._weights, self._one_batch = {id(tensor) for tensor in parameters}, one_batch

    def evaluate(self, z: Tensor, y: Tensor, weights: Tensor | None) -> AtOutput:
        """Evaluate at outputs ``(N, …)`` and whatever targets the function takes.

        Raises:
            InputError: the function returns something else.
        """
        inner = z if z.requires_grad else z.detach().requires_grad_()
        with torch.enable_grad():
            total, weight, _ = self._evaluate(inner, y, weights)
        return _AtAny(inner, total, weight, keep=z.requires_grad)

    def check(self, z: Tensor, y: Tensor | Targets) -> None:
        """Refuse a loss that depends on the weights, or as a mean on how examples are batched."""
        y, weights = (y.values, y.weights) if isinstance(y, Targets) else (y, None)
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            total, _, is_mean = self._evaluate(z, y, weights)
        if any(id(leaf) in self._weights for leaf in _leaves(total)):
            raise InputError(
                f"the loss {self.name} depends on the network's weights beside its outputs",
                got="a penalty on the weights, or a second call of the network",
                hint="leave it out; a penalty λ‖θ‖² adds 2λ to every eigenvalue of H",
            )
        if is_mean:
            self._check_mean(z.detach(), y, float(total.detach()))

    def _evaluate(self, z: Tensor, y: Tensor, weights: Tensor | None) -> tuple[Tensor, float, bool]:
        """Compute the sum, its weight, and whether it comes from a mean."""
        y = y.to(z.dtype) if y.is_floating_point() else y
        value: Any = self.function(z, y)
        if isinstance(value, (tuple, list)) and len(value) == 2 and weights is None:
            total, weight = value
            if isinstance(total, Tensor) and total.numel() == 1:
                return total.reshape(()).double(), float(weight), False
        if isinstance(value, Tensor) and value.ndim and len(value) == len(z) and value.numel():
            scale = by_example(weights, value)
            if scale is None:
                return value.double().sum(), float(value.numel()), False
            spread = scale.expand_as(value)
            return (spread * value).double().sum(), float(spread.double().sum()), False
        if weights is not None:
            raise InputError(
                f"the loss {self.name} takes no weights of examples",
                got=_described(value),
                wanted="one value per example, (N,)",
            )
        if isinstance(value, Tensor) and value.numel() == 1 and len(z):
            return value.reshape(()).double() * len(z), float(len(z)), True
        raise InputError(
            f"the loss {self.name} does not return one number",
            got=_described(value),
            wanted="the mean over the examples, one value per example, or (sum, weight)",
        )

    def _check_mean(self, z: Tensor, y: Tensor, total: float) -> None:
        """Compare N ℓ(all) with the sum over two uneven parts, and over the example taken twice."""
        if not self._one_batch and self._form not in (None, z.shape[1:]):
            raise InputError(
                f"the loss {self.name} is a mean over outputs whose shape changes",
                got=f"shape {tuple(z.shape)} after (…, {', '.join(map(str, self._form or ()))})",
                hint=_REMEDY,
            )
        self._form = z.shape[1:]
        cut = max(1, len(z) // 3)
        try:
            with torch.no_grad():
                if len(z) == 1:
                    z, y = torch.cat([z, z]), torch.cat([y, y])
                    total = float(self._evaluate(z, y, None)[0])
                parts = [(z[:cut], y[:cut]), (z[cut:], y[cut:])]
                sums = [float(self._evaluate(*part, None)[0]) for part in parts]
        except Exception as error:  # the user's code may raise anything
            if self._one_batch:
                return
            raise self._no_mean(f"a failure on part of a batch: {error}") from error
        if not math.isfinite(total):
            return  # which is refused elsewhere
        tolerance = 1e-9 if z.dtype == torch.float64 else 1e-5
        if self._one_batch:  # a loss of the batch as a whole is no mean, and has one value
            value, shares = total / len(z), [sums[0] / cut, sums[1] / (len(z) - cut)]
            if all(shares) and abs(value - sum(shares)) <= tolerance * abs(value):
                raise self._no_mean("a sum over them")
        elif not abs(total - sum(sums)) <= tolerance * sum(map(abs, (total, *sums))):
            means = sum(sums) / len(z), total / len(z)
            raise self._no_mean("{:.6g} by parts of a batch, {:.6g} at once".format(*means))

    def _no_mean(self, got: str) -> InputError:
        return InputError(
            f"the loss {self.name} is not a mean over examples",
            got=got,
            wanted="a value that does not depend on how the examples are batched",
            hint=_REMEDY,
        )


class _AtAny(AtOutput):
    def __init__(self, z: Tensor, total: Tensor, weight: float, *, keep: bool) -> None:
        self.z, self._total, self._weight, self.keep = z, total, weight, keep

    @property
    def total(self) -> Tensor:
        return self._total if self.keep else self._total.detach()

    @property
    def weight(self) -> float:
        return self._weight

    @cached_property
    def _slope(self) -> Tensor:
        if not self._total.requires_grad:
            return torch.zeros_like(self.z)
        (c,) = torch.autograd.grad(self._total, self.z, create_graph=True, materialize_grads=True)
        return c

    @property
    def is_linear(self) -> bool:
        return not self._slope.requires_grad

    @property
    def cotangent(self) -> Tensor:
        return self._slope if self.keep else self._slope.detach()

    def hessian(self, u: Tensor) -> Tensor:
        if self.is_linear:
            return torch.zeros_like(u)
        (product,) = torch.autograd.grad(
            self._slope,
            self.z,
            u,
            retain_graph=True,
            create_graph=self.keep,
            materialize_grads=True,
        )
        return product


def _leaves(tensor: Tensor) -> list[Tensor]:
    """List the leaves that a tensor's graph leads to."""
    leaves: list[Tensor] = []
    seen: set[Any] = set()
    pending: list[Any] = [tensor.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (variable := getattr(node, "variable", None)) is not None:
            leaves.append(variable)
        pending.extend(following for following, _ in node.next_functions)
    return leaves


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
