"""Rules of second-order Taylor mode: from x, ẋ and ẍ to the derivatives of f(x).

A rule takes the function and its arguments, with a jet for every tensor that depends on θ, and
returns ``(ẏ, ÿ)``: each broadcasts to the result, is a tuple where that is one, or None for zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import mul
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hessdiag.curvature.example_signs import Signed
from hessdiag.curvature.functions import find_curve
from hessdiag.losses.output_loss import OutputLoss
from hessdiag.nets.curves import Curve

Derivatives = tuple[Any, Any]
Rule = Callable[..., Derivatives]


class Unsupported(Exception):
    """There is no rule for something that a network does."""


@dataclass(frozen=True)
class Jet:
    """x(t) with its derivatives at t = 0.

    Attributes:
        value: x, a tensor; a number or None, too, in a rule.
        first: ẋ; None for zero, of what does not depend on t. Of a parameter it may be
            :class:`Signed`, which the rules of :data:`SIGNED` alone are given.
        second: ẍ; None for zero.
    """

    value: Any
    first: Any = None
    second: Any = None


def find_rule(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Rule | None:
    """Find the rule for a call; None if there is none."""
    name = func.__self__.__name__ if func.__name__ == "__get__" else func.__name__
    if name == "pow":
        curve = _power(*args, **kwargs)
        return None if curve is None else partial(_elementwise, curve)
    if name == "einsum" and len(args) > 3:
        return None
    if name in _RULES:
        return _RULES[name]
    curve = find_curve(func, args, kwargs)
    return None if curve is None else partial(_elementwise, curve)


def _power(_: Any, exponent: Any) -> Curve | None:
    """Give x^p of a number p, where its derivatives have no poles; None for others."""
    if not isinstance(exponent, (int, float)) or exponent not in (2, 3, 4):
        return None
    p = exponent
    return Curve(lambda x: x**p, lambda x: p * x ** (p - 1), lambda x: p * (p - 1) * x ** (p - 2))


# of one tensor


def _elementwise(curve: Curve, _: Any, x: Jet, *__: Any, **___: Any) -> Derivatives:
    """ẏ = φ'ẋ and ÿ = φ'ẍ + φ''ẋ²."""
    slope = curve.first(x.value)
    second = None if x.second is None else slope * x.second
    if curve.second is not torch.zeros_like:
        second = _plus(second, mul, curve.second(x.value) * x.first, x.first)
    return slope * x.first, second


def _linear(func: Any, x: Jet, *rest: Any, **options: Any) -> Derivatives:
    """Apply what is linear in x; other tensors give it a shape, a type or indices."""
    rest = tuple(_jet(item).value for item in rest)
    second = None if x.second is None else func(x.second, *rest, **options)
    return func(x.first, *rest, **options), second


def _pad(func: Any, x: Jet, pad: Any, mode: str = "constant", value: Any = None) -> Derivatives:
    del value  # a constant
    return _linear(func, x, pad, mode)


def _dropout(
    _: Any, x: Jet, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Derivatives:
    del inplace
    if training and p > 0:
        raise Unsupported("dropout")
    return x.first, x.second


def _max_pool(func: Any, x: Jet, *rest: Any, **options: Any) -> Derivatives:
    """Take the derivatives where the largest elements are."""
    pool, num_dims = getattr(F, func.__name__), int(func.__name__[-2])
    _, where = pool(x.value.detach(), *rest, **{**options, "return_indices": True})

    def pick(derivative: Tensor) -> Tensor:
        return derivative.flatten(-num_dims).gather(-1, where.flatten(-num_dims)).view_as(where)

    return _linear(pick, x)


def _softmax(_: Any, x: Jet, dim: int, *__: Any, **options: Any) -> Derivatives:
    """ẏ = y ∘ (ẋ − ⟨y, ẋ⟩) and ÿ = y ∘ (w − ⟨y, w⟩) with w = (ẋ − ⟨y, ẋ⟩)² + ẍ."""
    y = torch.softmax(x.value, dim, options.get("dtype"))
    slope = x.first - (y * x.first).sum(dim, keepdim=True)
    w = slope.square() if x.second is None else torch.addcmul(x.second, slope, slope)
    return y * slope, y * (w - (y * w).sum(dim, keepdim=True))


def _masked_fill(func: Any, x: Any, mask: Tensor, value: Any) -> Derivatives:
    if isinstance(value, Jet) or not isinstance(x, Jet):
        raise Unsupported("a fill that depends on the parameters")
    return _linear(lambda derivative: func(derivative, mask, 0.0), x)


# of several tensors


def _add(_: Any, x: Any, other: Any) -> Derivatives:
    x, other = _beside(x, other)
    return _sum(x.first, other.first), _sum(x.second, other.second)


def _subtract(func: Any, x: Any, other: Any) -> Derivatives:
    return _add(func, x, Jet(None, *_product(mul, other, -1)))


def _multiply(_: Any, x: Any, other: Any) -> Derivatives:
    return _product(mul, *_beside(x, other))


def _divide(func: Any, x: Any, other: Any) -> Derivatives:
    if not isinstance(other, Jet):
        return _product(mul, x, 1 / other)
    return _product(mul, x, Jet(1 / other.value, *_elementwise(_RECIPROCAL, func, other)))


def _matmul(func: Any, x: Any, other: Any) -> Derivatives:
    """Multiply; where the second is a parameter, each example may have its own."""
    x = shared(x)

    def multiply(a: Any, b: Any) -> Tensor:
        if isinstance(b, Signed):
            return b.times(func, a, transposed=True)
        return func(a, b)

    return _product(multiply, x, other)


def _added_matmul(
    _: Any, x: Any, one: Any, other: Any, *, beta: float = 1, alpha: float = 1
) -> Derivatives:
    """Differentiate ``β x + α (one @ other)``."""
    product = Jet(None, *_matmul(torch.matmul, one, other))
    x = _by_channel(x, 0, _jet(one).value) if _jet(x).value.ndim == 1 else shared(x)
    scaled = [Jet(None, *_product(mul, of, by)) for of, by in ((x, beta), (product, alpha))]
    return _sums(*scaled)


def _einsum(func: Any, equation: Any, *operands: Any) -> Derivatives:
    tensors = operands[0] if isinstance(operands[0], (tuple, list)) else operands
    if len(tensors) == 1:
        return _linear(lambda x: func(equation, x), tensors[0])
    return _product(lambda x, y: func(equation, x, y), *tensors)


def _weighted(
    func: Any, x: Any, weight: Any, bias: Any = None, *rest: Any, **options: Any
) -> Derivatives:
    """Differentiate a linear layer or a convolution."""
    x, weight, num_dims = shared(x), _jet(weight), _jet(weight).value.ndim - 2

    def multiply(a: Tensor, b: Tensor | Signed) -> Tensor:
        if isinstance(b, Signed):
            return b.times(multiply, a)
        return func(a, b, None, *rest, **options)

    weighted = Jet(None, *_product(multiply, x, weight))
    return _sums(weighted, _by_channel(bias, num_dims, x.value))


def _batch_norm(
    func: Any,
    x: Jet,
    mean: Tensor,
    var: Tensor,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Derivatives:
    """Differentiate the normalisation by running statistics, which are constants."""
    del func, momentum
    if training:
        raise Unsupported("normalisation by the batch that is not composed")
    num_dims = x.value.ndim - 2
    unit, mean = (_by_channel(d, num_dims).value for d in (torch.rsqrt(var + eps), mean))
    if weight is None:
        return _sums(Jet(None, *_product(mul, x, unit)), _by_channel(bias, num_dims, x.value))
    scale = _by_channel(weight, num_dims, x.value)
    scale = Jet(scale.value * unit, *_product(mul, scale, unit))
    scaled = Jet(None, *_product(mul, Jet(x.value - mean, x.first, x.second), scale))
    return _sums(scaled, _by_channel(bias, num_dims, x.value))


def _embedding(
    func: Any, indices: Tensor, weight: Any, padding_idx: int | None = None, **options: Any
) -> Derivatives:
    """Look tangents up; each example's have the signs of its own rows and columns.

    The row of a padding token is a constant, for autograd too.
    """
    if isinstance(indices, Jet):
        raise Unsupported("torch.embedding in place of torch.nn.functional.embedding")
    options.update(max_norm=None, sparse=False)

    def look_up(tangents: Tensor) -> Tensor:
        found = func(indices, tangents, **options)
        if padding_idx is None:
            return found
        return found.masked_fill((indices == padding_idx % len(tangents))[..., None], 0)

    if not isinstance(weight.first, Signed):
        return _linear(look_up, weight)
    return weight.first.looked_up(look_up, indices), None


def _join(func: Any, tensors: Any, *rest: Any, **options: Any) -> Derivatives:
    """Concatenate or stack."""
    jets = [_jet(x) for x in tensors]

    def join(derivatives: list[Tensor | None]) -> Tensor | None:
        if all(d is None for d in derivatives):
            return None
        pairs = zip(derivatives, jets, strict=True)
        parts = [torch.zeros_like(x.value) if d is None else d for d, x in pairs]
        return func(parts, *rest, **options)

    return join([x.first for x in jets]), join([x.second for x in jets])


def _loss(_: Any, z: Jet, y: Any, loss: OutputLoss, weights: Any) -> Derivatives:
    """Differentiate a loss, a function of the outputs whose own derivatives are known."""
    return loss.at(z.value, y, weights).jet(z.first, z.second)


# what they are made of


def _product(multiply: Callable[[Any, Any], Tensor], x: Any, y: Any) -> Derivatives:
    """What is linear in x and in y has ẋy + xẏ and ẍy + xÿ + 2ẋẏ."""
    x, y = _jet(x), _jet(y)
    first = _plus(_plus(None, multiply, x.first, y.value), multiply, x.value, y.first)
    second = _plus(_plus(None, multiply, x.second, y.value), multiply, x.value, y.second)
    if x.first is not None and y.first is not None:
        second = _plus(second, multiply, 2 * x.first, y.first)
    return first, second


def _plus(
    total: Tensor | None, multiply: Callable[[Any, Any], Tensor], a: Any, b: Any
) -> Tensor | None:
    """Add a product to a total."""
    if a is None or b is None:
        return total
    if total is not None and multiply is mul:
        return torch.addcmul(total, a, b)  # in one pass over the memory
    return _sum(total, multiply(a, b))


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _jet(x: Any) -> Jet:
    return x if isinstance(x, Jet) else Jet(x)


def _sums(x: Jet, y: Jet) -> Derivatives:
    return _sum(x.first, y.first), _sum(x.second, y.second)


def shared(x: Any) -> Jet:
    """Give what is no weight of a layer one tangent for all examples."""
    x = _jet(x)
    return Jet(x.value, x.first.shared(), x.second) if isinstance(x.first, Signed) else x


def _beside(x: Any, y: Any) -> tuple[Jet, Jet]:
    """Lay tangents by example out beside what they act on."""
    x, y = _jet(x), _jet(y)
    pair = [
        Jet(a.value, a.first.beside(b.value), a.second)
        if isinstance(a.first, Signed) and isinstance(b.value, Tensor)
        else shared(a)
        for a, b in ((x, y), (y, x))
    ]
    return pair[0], pair[1]


def _by_channel(x: Any, num_dims: int, beside: Tensor | None = None) -> Jet:
    """View ``(C,)`` as ``(C, 1, …)``, with so many dimensions after that of the channels."""
    x, shape = _jet(x), (-1,) + (1,) * num_dims
    first = x.first
    if isinstance(first, Signed):
        assert beside is not None
        first = first.beside(beside, -1 - num_dims)
    elif first is not None:
        first = first.view(shape)
    value, second = (None if d is None else d.view(shape) for d in (x.value, x.second))
    return Jet(value, first, second)


_SQUARE = Curve(torch.square, lambda x: 2 * x, lambda _: torch.tensor(2.0))
_RECIPROCAL = Curve(torch.reciprocal, lambda x: -(x**-2), lambda x: 2 * x**-3)
_EXP = Curve(torch.exp, torch.exp, torch.exp)
_RSQRT = Curve(torch.rsqrt, lambda x: -0.5 * x**-1.5, lambda x: 0.75 * x**-2.5)
_LINEAR = (
    *("view", "view_as", "reshape", "flatten", "permute", "transpose", "t", "T", "mT", "movedim"),
    *("squeeze", "unsqueeze", "expand", "expand_as", "contiguous", "clone", "to", "neg"),
    *("__getitem__", "chunk", "split", "unbind", "sum", "mean", "avg_pool1d", "avg_pool2d"),
    *("avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("unflatten", "repeat", "repeat_interleave", "narrow", "select", "index_select", "roll"),
    *("flip", "swapaxes", "float", "double", "type_as", "tril", "triu", "cumsum"),
    "total",  # over processes
)
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_LINEAR, _linear),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), _max_pool),
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d"), _weighted),
    **dict.fromkeys(("matmul", "mm", "bmm", "__matmul__"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm"), _added_matmul),
    "einsum": _einsum,
    "softmax": _softmax,
    "masked_fill": _masked_fill,
    **dict.fromkeys(("add", "add_"), _add),
    **dict.fromkeys(("sub", "sub_"), _subtract),
    **dict.fromkeys(("mul", "mul_"), _multiply),
    **dict.fromkeys(("div", "div_"), _divide),
    **dict.fromkeys(("cat", "stack"), _join),
    "__rsub__": lambda func, x, other: _subtract(func, other, x),
    "square": partial(_elementwise, _SQUARE),
    "exp": partial(_elementwise, _EXP),
    "rsqrt": partial(_elementwise, _RSQRT),
    "pad": _pad,
    "dropout": _dropout,
    **dict.fromkeys(("batch_norm", "running_norm"), _batch_norm),
    "embedding": _embedding,
    "summed_loss": _loss,
}
SIGNED = (_weighted, _matmul, _added_matmul, _add, _multiply, _batch_norm, _embedding)
"""Rules that take tangents by example."""
