"""Losses that the user has written, differentiated by autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hessdiag.errors import InputError, is_out_of_memory
from hessdiag.losses.output_loss import AtOutput, OutputLoss, Targets, by_example

_REMEDY = "return one value per example, (N,), or a pair (sum, weight)"
_USUAL = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError)
_MEAN, _PAIR, _VALUES = "mean", "pair", "values"


class AnyLoss(OutputLoss):
    """Any twice differentiable loss(z, y).

    It returns the mean over the examples of a batch, or one value per example, or (sum, weight).
    All are put to the test: the whole has to be the sum of its parts, and a mean never a sum.
    Tensors of its own in a narrower type are taken in that of the outputs.

    Args:
        function: from outputs ``(N, …)`` and targets to any of these.
    """

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        self._weights: set[int] = set()  # ids of the network's
        self._one_batch = False
        self._form: torch.Size | None = None  # of an example's outputs

    @property
    def is_of_batch(self) -> bool:
        """Whether it is one of a single batch as a whole, and not of its examples."""
        return self._one_batch

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
            total, weight, form = self._evaluate(z, y, weights)
        if any(id(leaf) in self._weights for leaf in _leaves(total)):
            raise InputError(
                f"the loss {self.name} depends on the network's weights beside its outputs",
                got="a penalty on the weights, or a second call of the network",
                hint="leave it out; a penalty λ‖θ‖² adds 2λ to every eigenvalue of H",
            )
        self._check_parts(z.detach(), y, weights, (float(total.detach()), weight), form)

    def _call(self, z: Tensor, y: Tensor) -> Any:
        if y.is_floating_point():
            y = y.to(z.dtype)
        elif y.dtype != torch.bool and not y.is_complex():
            y = y.long()
        try:
            with _AsWide(z.dtype):
                return self.function(z, y)
        except _USUAL as error:
            if is_out_of_memory(error):
                raise
            text = str(error).split("\n")[0]
            raise InputError(
                f"the loss {self.name} fails",
                got=f"outputs of shape {tuple(z.shape)}, targets of shape {tuple(y.shape)}: "
                f"{type(error).__name__}: {text}",
                hint="call it on outputs and targets of one batch to see where",
            ) from error

    def _evaluate(self, z: Tensor, y: Tensor, weights: Tensor | None) -> tuple[Tensor, float, str]:
        """Compute the sum, its weight, and what was returned: a mean, a pair or values."""
        value = self._call(z, y)
        if isinstance(value, (tuple, list)) and len(value) == 2 and weights is None:
            total, weight = value
            if _is_number(total) and isinstance(total, Tensor) and _is_number(weight):
                return total.reshape(()).double(), float(weight), _PAIR
        if isinstance(value, Tensor) and value.ndim and len(value) == len(z) and value.numel():
            scale = by_example(weights, value)
            if scale is None:
                return value.double().sum(), float(value.numel()), _VALUES
            spread = scale.expand_as(value)
            return (spread * value).double().sum(), float(spread.double().sum()), _VALUES
        if weights is not None:
            raise InputError(
                f"the loss {self.name} takes no weights of examples",
                got=_described(value),
                wanted="one value per example, (N,)",
            )
        if isinstance(value, Tensor) and _is_number(value) and len(z):
            return value.reshape(()).double() * len(z), float(len(z)), _MEAN
        raise InputError(
            f"the loss {self.name} does not return one number",
            got=_described(value),
            wanted="the mean over the examples, one value per example, or (sum, weight)",
        )

    def _check_parts(
        self,
        z: Tensor,
        y: Tensor,
        weights: Tensor | None,
        whole: tuple[float, float],
        form: str,
    ) -> None:
        """Compare sum and weight of all with those of two uneven parts, or of the example twice."""
        if form == _MEAN and not self._one_batch and self._form not in (None, z.shape[1:]):
            raise InputError(
                f"the loss {self.name} is a mean over outputs whose shape changes",
                got=f"shape {tuple(z.shape)} after (…, {', '.join(map(str, self._form or ()))})",
                hint=_REMEDY,
            )
        self._form = z.shape[1:]
        if form == _VALUES and self._one_batch:
            return
        cut = max(1, len(z) // 3)
        try:
            with torch.no_grad():
                if len(z) == 1:
                    z, y = torch.cat([z, z]), torch.cat([y, y])
                    weights = None if weights is None else torch.cat([weights, weights])
                    whole = self._numbers(z, y, weights)
                shares = [
                    self._numbers(z[at], y[at], None if weights is None else weights[at])
                    for at in (slice(cut), slice(cut, None))
                ]
        except Exception as error:  # the user's code may raise anything
            if self._one_batch:
                return
            raise self._no_mean(f"a failure on part of a batch: {error}") from error
        total, weight = whole
        sums, own = [share[0] for share in shares], [share[1] for share in shares]
        if not math.isfinite(total):
            return  # which is refused elsewhere
        tolerance = 1e-9 if z.dtype == torch.float64 else 1e-5
        if form == _MEAN and self._one_batch:  # one of the batch as a whole has one value
            value, parts = total / weight, [s / w for s, w in zip(sums, own, strict=True)]
            if all(parts) and abs(value - sum(parts)) <= tolerance * abs(value):
                raise self._no_mean("a sum over them")
            return
        for name, at_once, by_parts in (("sum", total, sum(sums)), ("weight", weight, sum(own))):
            sizes = sum(map(abs, (at_once, *(sums if name == "sum" else own))))
            if not abs(at_once - by_parts) <= tolerance * sizes:
                name, scale = (f"a {name} of ", 1.0) if form == _PAIR else ("", weight)
                told = f"{by_parts / scale:.6g} by parts of a batch, {at_once / scale:.6g} at once"
                raise self._no_mean(name + told)

    def _numbers(self, z: Tensor, y: Tensor, weights: Tensor | None) -> tuple[float, float]:
        total, weight, _ = self._evaluate(z, y, weights)
        return float(total), weight

    def _no_mean(self, got: str) -> InputError:
        return InputError(
            f"the loss {self.name} is not a mean over examples",
            got=got,
            wanted="a value that does not depend on how the examples are batched",
            hint=_REMEDY,
        )


class _AsWide(TorchFunctionMode):
    """Within the block, no function of torch sees floating numbers narrower than ``dtype``."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.__name__ == "float":
            return args[0].to(self._dtype)
        if not func.__name__.endswith("_"):  # what is changed in place, or asked of, is itself
            args, kwargs = self._wide(args), self._wide(kwargs or {})
        return func(*args, **(kwargs or {}))

    def _wide(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            narrow = value.is_floating_point() and value.dtype.itemsize < self._dtype.itemsize
            return value.to(self._dtype) if narrow else value
        if isinstance(value, dict):
            return {key: self._wide(item) for key, item in value.items()}
        if type(value) in (tuple, list):
            return type(value)(map(self._wide, value))
        return value


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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {', '.join(map(_described, value))}"
    return type(value).__name__
