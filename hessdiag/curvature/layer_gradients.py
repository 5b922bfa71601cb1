"""What layers do with their weights: from the gradient at the output to each example's in those.

A rule takes the function, its arguments by name, and where its input has its examples. It returns
what turns a gradient into those of ``weight`` and ``bias``; None where it knows no such call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from hessdiag.curvature.example_gradients import FIRST, Factors, by_example

Named = Iterator[tuple[str, Factors | Tensor]]


def _linear(_: Any, given: dict[str, Any], place: str, count: int) -> Any:
    x = by_example(given["input"], place, count).reshape(count, -1, given["input"].shape[-1])

    def pull(g: Tensor, _: Container[str]) -> Named:
        g = by_example(g, place, count).reshape(count, -1, g.shape[-1])
        yield "weight", Factors(g, x, given["weight"].shape)
        yield "bias", g.sum(1)

    return pull


def _transposed(_: Any, given: dict[str, Any], place: str, count: int) -> Any:
    """Rule ``x W`` and ``b + x W``, W with the inputs first."""
    weight = given["weight"]
    if weight.ndim != 2 or given.get("beta", 1) != 1 or given.get("alpha", 1) != 1:
        return None
    x = by_example(given["input"], place, count).reshape(count, -1, weight.shape[0])

    def pull(g: Tensor, _: Container[str]) -> Named:
        g = by_example(g, place, count).reshape(count, -1, g.shape[-1])
        yield "weight", Factors(x, g, weight.shape)
        yield "bias", g.sum(1)

    return pull


def _convolution(_: Any, given: dict[str, Any], place: str, count: int) -> Any:
    x, kernel, groups = given["input"], given["weight"], given.get("groups", 1)
    num_dims = kernel.ndim - 2
    if place != FIRST or num_dims > 2 or isinstance(given.get("padding"), str):
        return None
    moves = {key: _pair(given[key], num_dims, of) for key, of in _MOVES.items() if key in given}
    x = x if num_dims == 2 else x.unsqueeze(2)
    size = _pair(tuple(kernel.shape[2:]), num_dims, 1)

    def unfold(x: Tensor) -> Tensor:
        return F.unfold(x, size, **moves).mT

    def grouped(g: Tensor) -> Tensor:
        own = unfold(x).unflatten(2, (groups, -1)).transpose(1, 2)
        back = g.unflatten(2, (groups, -1)).transpose(1, 2)
        return (back.mT @ own).reshape(count, *kernel.shape)

    def pull(g: Tensor, wanted: Container[str]) -> Named:
        g = g.flatten(2).mT
        if "weight" in wanted:
            yield "weight", Factors(g, x, kernel.shape, unfold) if groups == 1 else grouped(g)
        yield "bias", g.sum(1)

    return pull


_MOVES = {"stride": 1, "padding": 0, "dilation": 1}


def _pair(value: Any, num_dims: int, neutral: int) -> tuple[int, ...]:
    """Read what belongs to each dimension, of images."""
    each = (value,) * num_dims if isinstance(value, int) else tuple(value)
    each = each * num_dims if len(each) == 1 else each
    return each if num_dims == 2 else (neutral, *each)


def _norm(func: Any, given: dict[str, Any], place: str, count: int) -> Any:
    own_shape = given.get("normalized_shape")
    if given.get("training") or (own_shape is None and place != FIRST):
        return None
    x = given["input"]
    bare = {key: value for key, value in given.items() if key not in ("input", "weight", "bias")}

    def summed(terms: Tensor) -> Tensor:
        if own_shape is None:  # by channel
            return terms.flatten(2).sum(2) if terms.ndim > 2 else terms
        return by_example(terms, place, count).reshape(count, -1, math.prod(own_shape)).sum(1)

    def pull(g: Tensor, wanted: Container[str]) -> Named:
        if "weight" in wanted:
            yield "weight", summed(func(x, **bare) * g)
        yield "bias", summed(g)

    return pull


def _embedding(_: Any, given: dict[str, Any], place: str, count: int) -> Any:
    indices, padding = given["input"], given.get("padding_idx")
    own = by_example(indices, place, count).reshape(count, -1)

    def pull(g: Tensor, _: Container[str]) -> Named:
        if padding is not None:
            g = g * (indices != padding % len(given["weight"]))[..., None]
        g = by_example(g, place, count).reshape(count, -1, g.shape[-1])
        yield "weight", Factors(own, g, given["weight"].shape)

    return pull


_CONVOLUTION = "input weight bias stride padding dilation groups", _convolution
RULES: dict[str, tuple[str, Callable[..., Any]]] = {
    "linear": ("input weight bias", _linear),
    **dict.fromkeys(("matmul", "mm", "__matmul__"), ("input weight", _transposed)),
    "addmm": ("bias input weight", _transposed),
    **dict.fromkeys(("conv1d", "conv2d"), _CONVOLUTION),
    "running_norm": ("input mean variance weight bias eps", _norm),
    "batch_norm": ("input running_mean running_var weight bias training momentum eps", _norm),
    "layer_norm": ("input normalized_shape weight bias eps", _norm),
    "group_norm": ("input num_groups weight bias eps", _norm),
    "embedding": ("input weight padding_idx", _embedding),
}
