"""Activations whose second derivative is chosen rather than true.

Dauphin, Agarwala and Mobahi (2024), section 5, give ReLU a second derivative (augmented ReLU) and
take GELU's away (diminished GELU), to see which of them gradient penalties need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from hessdiag.errors import InputError
from hessdiag.nets.curves import Curve

_Order = Callable[[Tensor, Curve], Tensor]


def surrogate(x: Tensor, curve: Curve) -> Tensor:
    """Apply φ such that autograd finds the curve's φ' and φ'', whatever φ's true ones are.

    Works in reverse mode, nested or not, in forward mode, in either one over the other, and under
    ``torch.func``; only forward over forward is beyond any ``autograd.Function``
    (pytorch/pytorch#197867).

    Args:
        x: of any shape, floating.
        curve: what to compute.

    Raises:
        InputError: later, when a third derivative is taken: it is undefined.
    """
    return _value(x, curve)


def _order(function: _Order, derivative: _Order) -> _Order:
    """Make an elementwise function whose derivative is ``derivative``, in both modes."""

    class Order(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> Tensor:
            return function(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:  # noqa: ARG004
            x, ctx.curve = inputs
            ctx.save_for_backward(x)
            ctx.save_for_forward(x)

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Any) -> Any:
            return grad_outputs[0] * derivative(ctx.saved_tensors[0], ctx.curve), None

        @staticmethod
        def jvp(ctx: Any, *grad_inputs: Any) -> Any:
            x = forward_ad.unpack_dual(ctx.saved_tensors[0]).primal  # its own tangent is no matter
            return grad_inputs[0] * derivative(x, ctx.curve)

    def apply(x: Tensor, curve: Curve) -> Tensor:
        return Order.apply(x, curve)  # pyright: ignore[reportReturnType]

    return apply


def _undefined(x: Tensor, curve: Curve) -> Tensor:  # noqa: ARG001
    raise InputError(
        "an activation with a chosen second derivative has no third one",
        got="augmented_relu or diminished_gelu under a method that needs φ'''",
        hint="choose another activation, or a method without third derivatives",
    )


_bend = _order(lambda x, curve: curve.second(x), _undefined)
_slope = _order(lambda x, curve: curve.first(x), _bend)
_value = _order(lambda x, curve: curve.value(x), _slope)
