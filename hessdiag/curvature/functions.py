"""The second derivatives of torch's elementwise functions, as networks call them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hessdiag.curvature.kernels import has_differentiable_backward
from hessdiag.nets import curves
from hessdiag.nets.curves import Curve, Elementwise


@dataclass(frozen=True)
class Second:
    """φ'' of one call of an elementwise function.

    Attributes:
        name: the function's.
        x: its input.
        second: φ''.
        curve: its closed forms; None where φ'' is differentiated numerically.
        beta: a β it is called with, or None.
    """

    name: str
    x: Tensor
    second: Elementwise
    curve: Curve | None = None
    beta: float | None = None


POWERS = ("square", "pow")
"""Activations, unless their results are averaged at once, as in a variance."""


def find_second(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Second | None:
    """Find φ'' of the call ``func(*args, **kwargs)``; None if it is no activation.

    Functions, methods and their in-place forms go by one name: ``F.relu``, ``torch.relu``,
    ``x.relu()``, ``x.relu_()``. Exponentials, logarithms and roots are arithmetic here, as they
    make up softmax and normalisation; clamps at zero count. Of a gated linear unit, the gate does.
    """
    name = getattr(func, "__name__", "").strip("_")
    x = args[0] if args else kwargs.get("input")
    if not isinstance(x, Tensor):
        return None
    rest, options = args[1:], _options(kwargs)
    curve = find_curve(func, args, kwargs)
    if curve is not None:
        label, beta = _label(name, rest, options)
        return Second(label, x, curve.second, curve, beta)
    if name == "glu":
        dim = _first(rest, options, "dim")
        gate = x.chunk(2, -1 if dim is None else dim)[1]
        return Second(name, gate, curves.SIGMOID.second, curves.SIGMOID)
    if name in _PIECEWISE_LINEAR or (name in _CLAMPS and _is_zero(_first(rest, options, "min"))):
        return Second(name, x, _FLAT.second, _FLAT)
    if name not in (*_CURVES, *_NUMERICAL, *POWERS) or (
        name == "pow" and not _is_power(rest, options)
    ):
        return None

    def again(values: Tensor) -> Tensor:
        return func(values.clone(), *rest, **options)  # func may work in place

    return Second(name, x, numerical(again))


def find_curve(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Curve | None:
    """Find φ, φ' and φ'' of the call ``func(*args, **kwargs)``; None without closed forms."""
    name = getattr(func, "__name__", "").strip("_")
    if name not in _CURVES:
        return None
    try:
        return _CURVES[name](*args[1 : 1 + _NUM_OPTIONS[name]], **_options(kwargs))
    except TypeError:  # called in a way of its own
        return None


def numerical(function: Elementwise) -> Elementwise:
    """Differentiate an elementwise function twice in float64.

    By autograd, so that φ'' is what the products with N see; by a difference of fourth order where
    autograd has no second derivative.
    """

    def second(x: Tensor) -> Tensor:
        x = x.detach()
        for way, wide in ((_by_autograd, x.double()), (_by_differences, x.double())):
            with suppress(RuntimeError):
                return way(function, wide)
        return _by_autograd(function, x).double()  # a function that knows x's own type alone

    return second


def is_elementwise(function: Elementwise, like: Tensor) -> bool:
    """Tell whether a function of one tensor acts entry by entry and is not affine.

    Half of some random entries are moved, and the others' results must not follow.

    Args:
        function: of one tensor.
        like: an input of the shape and type that it takes.
    """
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(like.shape, generator=generator).to(like)
    kept = (torch.rand(like.shape, generator=generator) < 0.5).to(like.device)
    try:
        with torch.no_grad():
            at = [function(values) for values in (x.clone(), torch.where(kept, x, 1.5 * x + 0.3))]
            if any(not isinstance(y, Tensor) or y.shape != x.shape for y in at):
                return False
            if not torch.equal(at[0][kept], at[1][kept]):
                return False
            zero = function(torch.zeros_like(x))
            rise = at[0] - zero
            tripled, mirrored = function(3 * x) - zero, function(-x) - zero
    except Exception:  # the user's function may raise anything on inputs it was not made for
        return False
    tolerance = 1e-5 * float(tripled.abs().max())
    affine = (tripled - 3 * rise).abs().max() <= tolerance
    return not (affine and (mirrored + rise).abs().max() <= tolerance)


def _by_autograd(function: Elementwise, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        y = function(x.clone())  # which may work in place
        # seeds that need a gradient themselves, so that a backward pass which cannot be
        # differentiated says so instead of passing for a constant
        seeds = torch.ones_like(y, requires_grad=True)
        (first,) = torch.autograd.grad(y, x, seeds, create_graph=True, materialize_grads=True)
        if not has_differentiable_backward([first]):
            raise RuntimeError("a backward pass that cannot be differentiated")
        if not first.requires_grad:
            return torch.zeros_like(x)
        (second,) = torch.autograd.grad(first.sum(), x, materialize_grads=True)
    return second.detach()


_STEP = 1e-3  # of the difference, relative to max(1, |x|)


@torch.no_grad()
def _by_differences(function: Elementwise, x: Tensor) -> Tensor:
    h = _STEP * x.abs().clamp(min=1)
    values = [function(x + k * h).double() for k in (-2, -1, 0, 1, 2)]
    weights = (-1.0, 16.0, -30.0, 16.0, -1.0)
    total = sum((w * v for w, v in zip(weights, values, strict=True)), torch.zeros_like(x))
    rounding = 64 * torch.finfo(torch.float64).eps * torch.stack(values).abs().amax(0)
    return torch.where(total.abs() > rounding, total / (12 * h * h), 0.0)


def _gelu(approximate: str = "none") -> Curve:
    return curves.GELU_TANH if approximate == "tanh" else curves.GELU


def _softplus(beta: float = 1.0, threshold: float = 20.0) -> Curve | None:
    return curves.SOFTPLUS.sharpened(beta) if threshold == 20 else None


def _celu(alpha: float = 1.0) -> Curve:
    return curves.elu().sharpened(1 / alpha)


_CURVES: dict[str, Callable[..., Curve | None]] = {
    "relu": lambda: curves.RELU,
    "leaky_relu": curves.leaky_relu,
    "gelu": _gelu,
    "silu": lambda: curves.SILU,
    "mish": lambda: curves.MISH,
    "tanh": lambda: curves.TANH,
    "sigmoid": lambda: curves.SIGMOID,
    "special_expit": lambda: curves.SIGMOID,
    "softplus": _softplus,
    "elu": curves.elu,
    "celu": _celu,
    "selu": lambda: curves.SELU,
}
_NUM_OPTIONS = {**dict.fromkeys(_CURVES, 0), "leaky_relu": 1, "elu": 1, "celu": 1, "softplus": 2}
_FLAT = curves.RELU  # as far as φ'' goes, all piecewise linear functions are one
_PIECEWISE_LINEAR = {
    *("relu6", "prelu", "rrelu", "hardtanh", "hardsigmoid", "hardshrink", "softshrink"),
    "threshold",
}
_CLAMPS = {"clamp", "clamp_min", "clip"}
_NUMERICAL = {
    *("hardswish", "logsigmoid", "log_sigmoid", "softsign", "tanhshrink"),
    *("sin", "cos", "tan", "sinh", "cosh", "asinh", "arcsinh", "atan", "arctan"),
    *("erf", "special_erf", "erfc", "special_erfc"),
}


def _options(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}


def _first(rest: tuple[Any, ...], options: dict[str, Any], name: str) -> Any:
    """Take the argument after the input, be it given by position or by name."""
    return rest[0] if rest else options.get(name)


def _is_zero(bound: Any) -> bool:
    return isinstance(bound, (int, float)) and bound == 0


def _is_power(rest: tuple[Any, ...], options: dict[str, Any]) -> bool:
    exponent = _first(rest, options, "exponent")
    return isinstance(exponent, (int, float)) and exponent >= 2


def _label(name: str, rest: tuple[Any, ...], options: dict[str, Any]) -> tuple[str, float | None]:
    """Name what is called as the table of activations does."""
    if name == "gelu" and options.get("approximate") == "tanh":
        return "gelu_tanh", None
    if name == "softplus":
        beta = _first(rest, options, "beta")
        return name, 1.0 if beta is None else float(beta)
    return name, None
