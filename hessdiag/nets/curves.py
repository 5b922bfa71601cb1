"""Activations as curves: φ with φ' and φ'' in closed form.

The derivatives are those that autograd computes, kinks included, so that φ'' is exactly what
reaches the Nonlinear Modeling Error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Elementwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Curve:
    """An activation and its first two derivatives, each elementwise on tensors of any shape.

    Attributes:
        value: φ.
        first: φ'.
        second: φ''.
        kinks: where φ' or φ'' jumps; the derivatives there are autograd's choice of side.
        width: the scale of x on which φ'' varies.
    """

    value: Elementwise
    first: Elementwise
    second: Elementwise
    kinks: tuple[float, ...] = ()
    width: float = 1.0

    def sharpened(self, beta: float) -> Curve:
        """The curve φ(βx)/β, with φ'(βx) and βφ''(βx); ∫φ'' stays as it was."""
        return Curve(
            value=lambda x: self.value(beta * x) / beta,
            first=lambda x: self.first(beta * x),
            second=lambda x: beta * self.second(beta * x),
            kinks=tuple(kink / beta for kink in self.kinks),
            width=self.width / beta,
        )


def normal_density(x: Tensor) -> Tensor:
    """The standard normal density n(x) = exp(−x²/2)/√(2π)."""
    return torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def piecewise_linear(value: Elementwise, slope: Elementwise, *kinks: float) -> Curve:
    """A curve whose φ'' is zero everywhere."""
    return Curve(value, slope, torch.zeros_like, kinks)


def leaky_relu(negative_slope: float = 0.01) -> Curve:
    """max(x, 0) + slope · min(x, 0)."""
    return piecewise_linear(
        lambda x: torch.where(x > 0, x, negative_slope * x),
        lambda x: torch.where(x > 0, torch.ones_like(x), negative_slope),
        0.0,
    )


def elu(alpha: float = 1.0, scale: float = 1.0) -> Curve:
    """Scale times x for x > 0 and α(eˣ − 1) elsewhere."""

    def tail(x: Tensor) -> Tensor:
        return alpha * torch.exp(x.clamp(max=0))

    return Curve(
        lambda x: scale * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0))),
        lambda x: scale * torch.where(x > 0, torch.ones_like(x), tail(x)),
        lambda x: scale * torch.where(x < 0, tail(x), torch.zeros_like(x)),
        (0.0,),
    )


def augmented_relu(beta: float = 1.0) -> Curve:
    """ReLU with the second derivative β/√(2π) exp(−β²x²/2) instead of its Dirac delta.

    Source: Dauphin, Agarwala and Mobahi (2024), eq. 15.
    """
    return Curve(F.relu, _step, lambda x: beta * normal_density(beta * x), (0.0,), 1 / beta)


def _step(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def _sigmoid_slope(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s)


def _sigmoid_second(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s) * (1 - 2 * s)


def _tanh_second(x: Tensor) -> Tensor:
    t = torch.tanh(x)
    return -2 * t * (1 - t * t)


def _silu_first(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def _silu_second(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


_LINEAR_BEYOND = 20.0  # torch's softplus is x there, and so is ours


def _softplus_first(x: Tensor) -> Tensor:
    return torch.where(x > _LINEAR_BEYOND, torch.ones_like(x), torch.sigmoid(x))


def _softplus_second(x: Tensor) -> Tensor:
    return torch.where(x >= _LINEAR_BEYOND, torch.zeros_like(x), _sigmoid_slope(x))


_FAR = 1e4  # GELU's φ'' is zero in any dtype long before; its factors would overflow later


def _gelu_first(x: Tensor) -> Tensor:
    return torch.special.ndtr(x) + x * normal_density(x)


def _gelu_second(x: Tensor) -> Tensor:
    x = x.clamp(-_FAR, _FAR)
    return normal_density(x) * (2 - x * x)


_CUBIC = 0.044715  # coefficient of x³ in the tanh approximation of GELU


def _gelu_tanh_inner(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give u, u' and u'' of u = √(2/π)(x + 0.044715 x³)."""
    k = math.sqrt(2 / math.pi)
    return k * (x + _CUBIC * x * x * x), k * (1 + 3 * _CUBIC * x * x), 6 * k * _CUBIC * x


def _gelu_tanh_first(x: Tensor) -> Tensor:
    x = x.clamp(-_FAR, _FAR)
    u, slope, _ = _gelu_tanh_inner(x)
    return 0.5 * (1 + torch.tanh(u)) + 0.5 * x * torch.cosh(u) ** -2 * slope


def _gelu_tanh_second(x: Tensor) -> Tensor:
    x = x.clamp(-_FAR, _FAR)
    u, slope, bend = _gelu_tanh_inner(x)
    sech = 1 / torch.cosh(u)  # 1 − tanh² would cancel
    return sech * sech * (slope + 0.5 * x * (bend - 2 * torch.tanh(u) * slope * slope))


def _mish_inner(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give t = tanh(softplus x), t' and t''."""
    s = torch.exp(F.logsigmoid(x))  # reaches further down than sigmoid does
    t = torch.tanh(F.softplus(x))
    first = (1 - t * t) * s
    return t, first, first * (1 - s - 2 * t * s)


def _mish_first(x: Tensor) -> Tensor:
    t, first, _ = _mish_inner(x)
    return t + x * first


def _mish_second(x: Tensor) -> Tensor:
    _, first, second = _mish_inner(x)
    return 2 * first + x * second


RELU = piecewise_linear(F.relu, _step, 0.0)
SQUARED_RELU = Curve(
    lambda x: F.relu(x).square(), lambda x: 2 * F.relu(x), lambda x: 2 * _step(x), (0.0,)
)
SIGMOID = Curve(torch.sigmoid, _sigmoid_slope, _sigmoid_second)
TANH = Curve(torch.tanh, lambda x: 1 - torch.tanh(x) ** 2, _tanh_second)
SOFTPLUS = Curve(F.softplus, _softplus_first, _softplus_second, (_LINEAR_BEYOND,))
GELU = Curve(lambda x: x * torch.special.ndtr(x), _gelu_first, _gelu_second)
GELU_TANH = Curve(lambda x: F.gelu(x, approximate="tanh"), _gelu_tanh_first, _gelu_tanh_second)
SILU = Curve(lambda x: x * torch.sigmoid(x), _silu_first, _silu_second)
MISH = Curve(lambda x: x * _mish_inner(x)[0], _mish_first, _mish_second)
SELU = elu(alpha=1.6732632423543772, scale=1.0507009873554805)
DIMINISHED_GELU = Curve(F.gelu, _gelu_first, torch.zeros_like)
